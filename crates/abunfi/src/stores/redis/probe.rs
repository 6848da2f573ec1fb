use std::collections::HashMap;

use async_trait::async_trait;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{FromRedisValue, RedisResult};
use serde_json::{Value, json};

use super::RedisStore;
use super::link::{Connection, Kind};
use crate::error::{StoreError, StoreKind};
use crate::health::Probe;

#[async_trait]
impl Probe for RedisStore {
    fn kind(&self) -> StoreKind {
        StoreKind::KeyValue
    }

    fn backend(&self) -> &'static str {
        "redis"
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.link
            .call(Kind::Harmless, async |live| {
                let mut connection = live.connection;
                redis::cmd("PING").query_async(&mut connection).await
            })
            .await
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        let (nodes, keys) = self
            .link
            .call(Kind::Harmless, async |live| {
                let mut connection = live.connection;
                let nodes = info(&mut connection).await?;
                let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await?;
                Ok((nodes, keys))
            })
            .await?;
        Ok(statistics(&nodes, keys))
    }
}

/// `INFO` of the server, or of all masters of a Cluster.
async fn info(connection: &mut Connection) -> RedisResult<Vec<String>> {
    let command = redis::cmd("INFO");
    match connection {
        Connection::Single(connection) => Ok(vec![command.query_async(connection).await?]),
        Connection::Cluster(connection) => {
            let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            let answers = connection.route_command(command, masters).await?;
            let nodes = HashMap::<String, String>::from_redis_value(answers)?;
            Ok(nodes.into_values().collect())
        }
    }
}

fn statistics(nodes: &[String], keys: u64) -> Value {
    let field = |node: &String, name: &str| {
        let prefix = format!("{name}:");
        node.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .map(str::to_owned)
    };
    let sum = |name: &str| {
        let values = nodes.iter().filter_map(|node| field(node, name));
        values
            .filter_map(|value| value.parse::<u64>().ok())
            .sum::<u64>()
    };
    let (hits, misses) = (sum("keyspace_hits"), sum("keyspace_misses"));
    json!({
        "backend": "redis",
        "version": nodes.first().and_then(|node| field(node, "redis_version")),
        "memory_bytes": sum("used_memory"),
        "max_memory_bytes": sum("maxmemory"),
        "clients": sum("connected_clients"),
        "hit_rate": rate(hits, hits.saturating_add(misses)),
        "keys": keys,
        "evicted_keys": sum("evicted_keys"),
        "nodes": nodes.len(),
    })
}

/// `part / whole` in thousandths, as a JSON number from 0 to 1; null of nothing.
pub(in crate::stores) fn rate(part: u64, whole: u64) -> Option<serde_json::Number> {
    let permille = part.saturating_mul(1_000).checked_div(whole)?;
    serde_json::from_str(&format!("{}.{:03}", permille / 1_000, permille % 1_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_summed_over_the_nodes() {
        let node = "# Server\r\nredis_version:7.0.15\r\nused_memory:1000\r\nmaxmemory:0\r\n\
            connected_clients:2\r\nkeyspace_hits:3\r\nkeyspace_misses:1\r\n";
        let shown = statistics(&[node.to_owned(), node.to_owned()], 5);
        assert_eq!(shown["version"], "7.0.15");
        assert_eq!(shown["memory_bytes"], 2_000);
        assert_eq!(shown["clients"], 4);
        assert_eq!(shown["hit_rate"], json!(0.75));
        assert_eq!(rate(0, 0), None);
        assert_eq!(json!(rate(7, 7)), json!(1.0));
    }
}
