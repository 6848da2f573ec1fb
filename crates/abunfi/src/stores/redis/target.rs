//! What `REDIS_URL` names: one server, a Cluster, or a master that Sentinels know.

use redis::aio::AsyncPushSender;
use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisResult, TlsMode,
};
use std::time::Duration;

use super::link::Connection;

/// Where the data is. Holds credentials, so its `Debug` says only what kind it is.
pub(super) enum Target {
    Single(Box<ConnectionInfo>),
    Cluster(Vec<ConnectionInfo>),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
    },
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Single(_) => "Single",
            Self::Cluster(_) => "Cluster",
            Self::Sentinel { .. } => "Sentinel",
        })
    }
}

/// What a URL may be; said to the operator, without what was given.
const ALLOWED: &str = "expected redis://host:port/db, rediss://… for TLS, \
    redis+cluster://host1:port,host2:port or redis+sentinel://host1:port,host2:port/master";

impl Target {
    /// Reads the URL. The error says what is allowed, and nothing of what was given.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or(ALLOWED)?;
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if !matches!(scheme, "redis" | "rediss") {
            return Err(ALLOWED);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
            None => (String::new(), authority),
        };
        let node = |host: &str, db: &str| {
            if host.is_empty() {
                return Err(ALLOWED);
            }
            let info = format!("{scheme}://{credentials}{host}/{db}")
                .into_connection_info()
                .map_err(|_not_a_url| ALLOWED)?;
            // RESP3 brings notices and the end of a connection as they happen, on the same connection.
            let settings = info
                .redis_settings()
                .clone()
                .set_protocol(ProtocolVersion::RESP3);
            Ok(info.set_redis_settings(settings))
        };
        let nodes = |db: &str| {
            hosts
                .split(',')
                .map(|host| node(host, db))
                .collect::<Result<Vec<_>, _>>()
        };
        match (kind, query) {
            ("", "") => Ok(Self::Single(Box::new(node(hosts, path)?))),
            ("cluster", "") | ("", "cluster" | "cluster=true") if path.is_empty() => {
                Ok(Self::Cluster(nodes("")?))
            }
            ("sentinel", "") => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(ALLOWED);
                }
                Ok(Self::Sentinel {
                    sentinels: nodes(db)?,
                    master: master.to_owned(),
                })
            }
            _ => Err(ALLOWED),
        }
    }

    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) fn uses_tls(&self) -> bool {
        let nodes = match self {
            Self::Single(node) => std::slice::from_ref(&**node),
            Self::Cluster(nodes)
            | Self::Sentinel {
                sentinels: nodes, ..
            } => nodes,
        };
        nodes.iter().any(is_tls)
    }

    /// One try. What the server says unasked goes to `pushes`.
    pub(super) async fn connect(
        &self,
        timeout: Duration,
        pushes: impl AsyncPushSender + Clone,
    ) -> RedisResult<Connection> {
        match self {
            Self::Single(node) => single(&Client::open((**node).clone())?, timeout, pushes).await,
            Self::Sentinel { sentinels, master } => {
                let client = sentinel_master(sentinels, master).await?;
                single(&client, timeout, pushes).await
            }
            Self::Cluster(nodes) => {
                let builder = ClusterClientBuilder::new(nodes.iter().cloned())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(timeout)
                    .push_sender(pushes);
                let cluster = builder.build()?.get_async_connection().await?;
                Ok(Connection::Cluster(cluster))
            }
        }
    }
}

async fn single(
    client: &Client,
    timeout: Duration,
    pushes: impl AsyncPushSender,
) -> RedisResult<Connection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        // The link puts its own deadline on every call.
        .set_response_timeout(None)
        .set_push_sender(pushes);
    let connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    Ok(Connection::Single(connection))
}

/// Asked anew at every connect: after a failover the master is another.
async fn sentinel_master(sentinels: &[ConnectionInfo], master: &str) -> RedisResult<Client> {
    let addresses = sentinels.iter().map(|node| node.addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3);
    if let Some(node) = sentinels.first() {
        let settings = node.redis_settings();
        builder = builder.set_client_to_redis_db(settings.db());
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if is_tls(node) {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
    }
    builder.build()?.async_get_client().await
}

fn is_tls(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), ConnectionAddr::TcpTls { .. })
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test may stop where it stands"
    )]

    use super::*;

    #[test]
    fn every_form_of_the_url_is_read() {
        let Target::Single(node) = Target::parse("rediss://u:p%40ss@cache:6380/3").unwrap() else {
            panic!("one server");
        };
        assert!(is_tls(&node));
        assert_eq!(node.redis_settings().db(), 3);
        assert_eq!(node.redis_settings().password(), Some("p@ss"));

        let cluster = Target::parse("redis+cluster://:secret@a:7001,b:7002,c").unwrap();
        let Target::Cluster(nodes) = &cluster else {
            panic!("a cluster");
        };
        assert_eq!(nodes.len(), 3);
        assert!(
            nodes
                .iter()
                .all(|n| n.redis_settings().password() == Some("secret"))
        );
        assert!(Target::parse("redis://a:1?cluster").unwrap().is_cluster());
        assert!(Target::parse("rediss+cluster://a:1").unwrap().uses_tls());

        let Target::Sentinel { sentinels, master } =
            Target::parse("redis+sentinel://s1:26379,s2:26379/mymaster/2").unwrap()
        else {
            panic!("sentinels");
        };
        assert_eq!((sentinels.len(), master.as_str()), (2, "mymaster"));
        assert_eq!(sentinels[0].redis_settings().db(), 2);
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        for wrong in [
            "localhost:6379",
            "http://hunter2@a",
            "redis://",
            "redis://hunter2@a:port",
            "redis://a/nodb",
            "redis+cluster://hunter2@a,,b",
            "redis+cluster://a/1",
            "redis+sentinel://a",
            "redis+other://a",
            "redis://a?hunter2=1",
        ] {
            let error = Target::parse(wrong).unwrap_err();
            assert!(
                error.contains("expected") && !error.contains("hunter2"),
                "{wrong}"
            );
        }
        let shown = format!("{:?}", Target::parse("redis://hunter2@a").unwrap());
        assert!(!shown.contains("hunter2"));
    }
}
