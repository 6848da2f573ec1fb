//! The service, in this process, on a port of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use abunfi::config::Secret;
use abunfi::ids::random_bytes;
use abunfi::keys::Scope;
use abunfi::{Config, Context, DatabaseService};
use http::Method;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Answer, Backend, Call};

/// One running service.
pub(crate) struct TestServer {
    pub(crate) backend: Backend,
    pub(crate) address: SocketAddr,
    pub(crate) platform: DatabaseService,
    pub(crate) client: reqwest::Client,
    pub(crate) admin: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl TestServer {
    pub(crate) async fn start(backend: Backend, mut config: Config) -> Self {
        let admin = format!("admin-{}", hex(random_bytes::<32>()));
        config.admin_key = Some(Secret::new(admin.clone()));
        config.http.shutdown_grace_ms = 5_000;
        let platform = Box::pin(DatabaseService::open(config))
            .await
            .expect("the platform opens");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(abunfi_server::serve(platform.clone(), listener, async {
            // A dropped sender stops it as well.
            let _stopped = stopped.await;
        }));
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self {
            backend,
            address,
            platform,
            client,
            admin,
            stop: Some(stop),
            serving,
        }
    }

    /// Asks the service to stop; it drains from now on.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stop.take();
    }

    pub(crate) async fn stop(mut self) {
        self.stop.take();
        self.serving
            .await
            .expect("serving ends")
            .expect("serving succeeds");
        self.platform.close().await;
    }

    /// A call with the admin key. Addresses without a `/` in front are below `/api/v1/`.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        let path = match path.strip_prefix('/') {
            Some(root) => root.to_owned(),
            None => format!("api/v1/{path}"),
        };
        let url = format!("http://{}/{path}", self.address);
        Call::new(self.client.request(method, url), &self.admin)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Call {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    /// Reads twice, until the second read is a hit. What was written a moment ago may void the copy once more:
    /// when its row in the outbox lives longer than usual.
    pub(crate) async fn read_and_hit(&self, path: &str) -> (Answer, Answer) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let first = self.get(path).expect(200).await;
            let second = self.get(path).expect(200).await;
            if second.header("x-cache") == Some("hit") {
                return (first, second);
            }
            assert!(Instant::now() < end, "{path} is never a hit");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A service key of `owner` with these scopes.
    pub(crate) async fn key(&self, owner: &str, scopes: &[Scope]) -> String {
        self.platform
            .keys()
            .create(&Context::system("tests"), owner, scopes)
            .await
            .expect("a key")
            .token
    }
}

fn hex<const N: usize>(bytes: [u8; N]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
