//! A service that stops finishes what runs, and takes nothing new.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, TestServer};

#[test]
fn what_runs_is_finished_and_nothing_new_is_taken() {
    crate::support::run(
        Backend::Embedded,
        |_| {},
        async |outer: &TestServer| {
            let folder = tempfile::TempDir::new().unwrap();
            let config = abunfi::Config {
                data_dir: folder.path().to_owned(),
                ..outer.platform.config().clone()
            };
            let mut server = TestServer::start(Backend::Embedded, config).await;
            let body = json!({"email": "late@example.com", "name": "Late"}).to_string();
            let head = format!(
                "POST /api/v1/users HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                server.admin,
                body.len()
            );
            let mut running = TcpStream::connect(server.address).await.unwrap();
            running.write_all(head.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.get("/readyz").expect(200).await;
            server.ask_to_stop();
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.get("/readyz").expect(503).await;
            server.get("/livez").expect(200).await;
            server.get("users").expect_problem(503, "overloaded").await;
            running.write_all(body.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let read =
                tokio::time::timeout(Duration::from_secs(10), running.read_to_end(&mut answer));
            read.await.expect("the connection ends").expect("an answer");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
            tokio::time::timeout(Duration::from_secs(10), server.stop())
                .await
                .expect("it stops");
        },
    );
}
