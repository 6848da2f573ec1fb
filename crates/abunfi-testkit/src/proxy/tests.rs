//! Every fault against a small server that counts what reaches it and answers in kind.

use std::time::Instant;

use super::*;

/// Longer than anything here takes, shorter than patience.
const SOON: Duration = Duration::from_secs(5);
/// Long enough to believe that nothing comes.
const NOTHING: Duration = Duration::from_millis(150);

/// Echoes what it reads and keeps it.
struct Echo {
    address: String,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let received = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let keep = Arc::clone(&keep);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1024];
                    while let Ok(count) = client.read(&mut buffer).await {
                        let Some(bytes) = buffer.get(..count).filter(|b| !b.is_empty()) else {
                            break;
                        };
                        lock(&keep).extend_from_slice(bytes);
                        if client.write_all(bytes).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });

        Self { address, received }
    }

    fn received(&self) -> Vec<u8> {
        lock(&self.received).clone()
    }
}

async fn scene() -> (Echo, FaultProxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = FaultProxy::start(&echo.address).await.expect("a proxy");
    let client = connect(&proxy).await;

    (echo, proxy, client)
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    let client = TcpStream::connect(proxy.addr())
        .await
        .expect("a connection");
    client.set_nodelay(true).expect("no delay");

    client
}

async fn send(client: &mut TcpStream, bytes: &[u8]) {
    client.write_all(bytes).await.expect("sent");
}

/// Exactly `expected` arrives.
async fn arrives(client: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    timeout(SOON, client.read_exact(&mut got))
        .await
        .expect("in time")
        .expect("all of it");

    assert_eq!(got, expected);
}

/// Neither bytes nor an end arrive for a while.
async fn nothing_arrives(client: &mut TcpStream) {
    let mut buffer = [0; 16];
    let read = timeout(NOTHING, client.read(&mut buffer)).await;

    assert!(read.is_err(), "something arrived: {read:?}");
}

/// The connection ends in order, with nothing before.
async fn closed(client: &mut TcpStream) {
    let mut buffer = [0; 16];
    let read = timeout(SOON, client.read(&mut buffer))
        .await
        .expect("in time");

    assert_eq!(read.expect("an orderly end"), 0);
}

/// The connection ends by RST.
async fn reset(client: &mut TcpStream) {
    let mut buffer = [0; 16];
    let read = timeout(SOON, client.read(&mut buffer))
        .await
        .expect("in time");

    assert_eq!(
        read.expect_err("a reset").kind(),
        io::ErrorKind::ConnectionReset
    );
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn echoes(client: &mut TcpStream, bytes: &[u8]) {
    send(client, bytes).await;
    arrives(client, bytes).await;
}

#[tokio::test]
async fn passing_bytes_are_unchanged_and_counted() {
    let (_echo, proxy, mut client) = scene().await;
    let long: Vec<u8> = (0..=255).cycle().take(100_000).collect();

    let (mut read, mut write) = client.split();
    let mut got = vec![0; long.len()];
    let (sent, received) = tokio::join!(write.write_all(&long), read.read_exact(&mut got));
    sent.expect("sent");
    received.expect("received");

    assert_eq!(got, long);
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    drop(client);
    eventually("the connection is closed", || proxy.open() == 0).await;
}

#[tokio::test]
async fn a_half_closed_connection_still_brings_the_answer() {
    let (_echo, _proxy, mut client) = scene().await;

    send(&mut client, b"last words").await;
    client.shutdown().await.expect("half closed");

    arrives(&mut client, b"last words").await;
    closed(&mut client).await;
}

#[tokio::test]
async fn down_resets_and_refuses_until_up() {
    let (_echo, proxy, mut client) = scene().await;
    echoes(&mut client, b"a").await;

    proxy.down().await.expect("down");
    reset(&mut client).await;
    let refused = TcpStream::connect(proxy.addr()).await.expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    proxy.up().await.expect("up");
    echoes(&mut connect(&proxy).await, b"b").await;
}

#[tokio::test]
async fn new_clients_can_be_closed_or_reset_at_once() {
    let (_echo, proxy, mut old) = scene().await;
    echoes(&mut old, b"before").await;

    proxy.set_accept(Accept::Close);
    closed(&mut connect(&proxy).await).await;
    proxy.set_accept(Accept::Reset);
    reset(&mut connect(&proxy).await).await;

    echoes(&mut old, b"the old one goes on").await;
    proxy.set_accept(Accept::Serve);
    echoes(&mut connect(&proxy).await, b"after").await;
}

#[tokio::test]
async fn a_frozen_proxy_accepts_holds_and_then_delivers() {
    let (echo, proxy, mut client) = scene().await;
    proxy.freeze();

    send(&mut client, b"held").await;
    let mut late = connect(&proxy).await;
    send(&mut late, b"late").await;
    nothing_arrives(&mut client).await;
    nothing_arrives(&mut late).await;
    assert!(echo.received().is_empty(), "nothing reached the server");

    proxy.thaw();
    arrives(&mut client, b"held").await;
    arrives(&mut late, b"late").await;
}

#[tokio::test]
async fn one_direction_can_freeze_alone() {
    let (echo, proxy, mut client) = scene().await;
    proxy.set(Direction::ToClient, Flow::Frozen);

    send(&mut client, b"done but not heard").await;
    nothing_arrives(&mut client).await;

    assert_eq!(echo.received(), b"done but not heard");
    proxy.thaw();
    arrives(&mut client, b"done but not heard").await;
}

#[tokio::test]
async fn a_blackhole_swallows_for_good() {
    let (echo, proxy, mut client) = scene().await;
    proxy.set(Direction::ToServer, Flow::Blackhole);
    send(&mut client, b"lost").await;
    nothing_arrives(&mut client).await;

    proxy.thaw();
    echoes(&mut client, b"found").await;

    assert_eq!(echo.received(), b"found");
}

#[tokio::test]
async fn latency_delays_each_direction() {
    let (_echo, proxy, mut client) = scene().await;
    let delay = Duration::from_millis(80);
    proxy.set_both(Flow::Latency(delay));

    let start = Instant::now();
    echoes(&mut client, b"slow").await;

    assert!(start.elapsed() >= delay * 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn cut_closes_and_reset_resets_what_is_open() {
    let (_echo, proxy, mut first) = scene().await;
    echoes(&mut first, b"1").await;
    proxy.cut();
    closed(&mut first).await;

    let mut second = connect(&proxy).await;
    echoes(&mut second, b"2").await;
    proxy.reset();
    reset(&mut second).await;

    echoes(&mut connect(&proxy).await, b"3").await;
    assert_eq!(proxy.accepted(), 3);
}

#[tokio::test]
async fn a_frozen_connection_can_be_cut() {
    let (_echo, proxy, mut client) = scene().await;
    echoes(&mut client, b"a").await;
    proxy.freeze();
    proxy.cut();

    closed(&mut client).await;
}

#[tokio::test]
async fn a_limit_ends_the_connection_in_the_middle() {
    let (_echo, proxy, mut client) = scene().await;
    proxy.set(Direction::ToClient, Flow::Limited(5));

    send(&mut client, b"abc").await;
    arrives(&mut client, b"abc").await;
    send(&mut client, b"defg").await;
    arrives(&mut client, b"de").await;
    closed(&mut client).await;

    // Each connection has its own allowance.
    echoes(&mut connect(&proxy).await, b"12345").await;
}

#[tokio::test]
async fn slices_keep_the_order_and_stay_small() {
    let echo = Echo::start().await;
    let proxy = FaultProxy::start_seeded(&echo.address, 7)
        .await
        .expect("a proxy");
    proxy.set(
        Direction::ToClient,
        Flow::Sliced {
            most: 4,
            pause: Duration::from_millis(3),
        },
    );
    let mut client = connect(&proxy).await;
    let text = b"a sentence that is longer than one slice";

    send(&mut client, text).await;
    let mut got = Vec::new();
    let mut pieces = 0;
    let mut buffer = [0; 64];
    while got.len() < text.len() {
        let count = timeout(SOON, client.read(&mut buffer))
            .await
            .expect("in time")
            .expect("read");
        got.extend_from_slice(buffer.get(..count).expect("within the buffer"));
        pieces += 1;
    }

    assert_eq!(got, text);
    assert!(pieces > 3, "{pieces} pieces");
}

#[tokio::test]
async fn one_seed_makes_the_same_slices() {
    async fn lengths(seed: u64) -> Vec<usize> {
        let proxy = FaultProxy::start_seeded("127.0.0.1:1", seed)
            .await
            .expect("a proxy");
        (0..50).map(|_| proxy.shared.slice(9, 100)).collect()
    }

    let first = lengths(1).await;
    assert_eq!(first, lengths(1).await);
    assert_ne!(first, lengths(2).await);
    assert!(
        first.iter().all(|length| (1..=9).contains(length)),
        "{first:?}"
    );
}

#[tokio::test]
async fn the_answer_to_a_match_is_lost_and_the_request_carried_out() {
    let (echo, proxy, mut client) = scene().await;
    proxy.drop_response_after("COMMIT", 1);

    echoes(&mut client, b"INSERT;").await;
    send(&mut client, b"COMMIT;").await;
    closed(&mut client).await;

    eventually("the loss is counted", || proxy.lost_responses() == 1).await;
    assert_eq!(echo.received(), b"INSERT;COMMIT;");

    // Once only.
    echoes(&mut connect(&proxy).await, b"COMMIT;").await;
    assert_eq!(proxy.lost_responses(), 1);
}

#[tokio::test]
async fn a_pattern_in_pieces_is_found() {
    let (echo, proxy, mut client) = scene().await;
    proxy.drop_response_after("COMMIT", 1);

    for piece in [&b"xxCO"[..], b"MM"] {
        echoes(&mut client, piece).await;
    }
    send(&mut client, b"ITyy").await;
    closed(&mut client).await;

    assert_eq!(echo.received(), b"xxCOMMITyy");
    assert_eq!(proxy.lost_responses(), 1);
}

#[tokio::test]
async fn a_pattern_is_armed_so_many_times_and_can_be_disarmed() {
    let (_echo, proxy, mut client) = scene().await;
    proxy.drop_response_after("!", 3);
    for count in 1..=2 {
        send(&mut client, b"a!").await;
        closed(&mut client).await;
        eventually("the loss is counted", || proxy.lost_responses() == count).await;
        client = connect(&proxy).await;
    }

    proxy.disarm();
    echoes(&mut client, b"a!").await;
    assert_eq!(proxy.lost_responses(), 2);
}

#[tokio::test]
async fn a_match_is_not_counted_again_in_the_next_piece() {
    let (_echo, proxy, mut client) = scene().await;
    echoes(&mut client, b"COMMIT").await;

    proxy.drop_response_after("COMMIT", 1);
    echoes(&mut client, b"x").await;

    assert_eq!(proxy.lost_responses(), 0);
}

#[tokio::test]
async fn a_lost_answer_may_come_late() {
    // A server that answers only after it has thought.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let done = Arc::new(AtomicUsize::new(0));
    let carried_out = Arc::clone(&done);
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        let mut buffer = [0; 64];
        assert_ne!(client.read(&mut buffer).await.expect("a request"), 0);
        sleep(Duration::from_millis(300)).await;
        carried_out.fetch_add(1, Ordering::SeqCst);
        client.write_all(b"done").await.expect("answered");
        drain(&mut client.into_split().0).await;
    });
    let proxy = FaultProxy::start(address).await.expect("a proxy");
    proxy.drop_response_after("go", 1);
    let mut client = connect(&proxy).await;

    send(&mut client, b"go").await;
    closed(&mut client).await;

    assert_eq!(
        done.load(Ordering::SeqCst),
        1,
        "closed only after the work was done"
    );
}

#[tokio::test]
async fn a_lost_request_never_reaches_the_server() {
    let (echo, proxy, mut client) = scene().await;
    proxy.drop_request("COMMIT", 1);

    echoes(&mut client, b"INSERT;").await;
    send(&mut client, b"COMMIT;").await;
    closed(&mut client).await;

    assert_eq!(proxy.lost_requests(), 1);
    assert_eq!(echo.received(), b"INSERT;");
}

#[tokio::test]
async fn a_server_that_refuses_closes_the_client() {
    let port = free_port().expect("a port");
    let proxy = FaultProxy::start(format!("127.0.0.1:{port}"))
        .await
        .expect("a proxy");

    closed(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn a_dropped_proxy_is_gone() {
    let (_echo, proxy, mut client) = scene().await;
    echoes(&mut client, b"a").await;
    let address = proxy.addr();

    drop(proxy);

    reset(&mut client).await;
    let start = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < SOON, "it still listens");
    }
}
