//! A TCP proxy that does, on demand, what networks and dying servers do.
//!
//! Everything can be switched while connections are open. Faults of the stream are set for each
//! direction ([`Flow`]), faults of connecting for the listener ([`Accept`], [`FaultProxy::down`]),
//! and single exchanges are broken by what the client sends ([`FaultProxy::drop_response_after`],
//! [`FaultProxy::drop_request`]). What is random comes from a seed.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::ports::{address_of, free_port, with_address};

/// The longest pattern; each connection remembers that much of what the client sent.
const MAX_PATTERN: usize = 256;

const BUFFER: usize = 16 * 1024;

/// After the first bytes of an answer that is to be lost, how long the server must be silent before
/// the answer counts as complete.
const ANSWER_QUIET: Duration = Duration::from_millis(50);

/// How long the server's side is still drained after the client has lost its connection, so that
/// what the server does is not disturbed by a reset.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How long [`FaultProxy::up`] tries to get its port back.
const REBIND_DEADLINE: Duration = Duration::from_secs(10);
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// What happens to the bytes of one direction, on open connections and new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Pass,
    /// They are held back, and pass when the flow changes: a frozen peer, or a network that loses
    /// everything for a while.
    Frozen,
    /// They are read and thrown away: a network that loses everything for good.
    Blackhole,
    /// Each piece that arrives is delayed by so much.
    Latency(Duration),
    /// They pass in pieces of random size, at most so many bytes each, with a pause after each.
    Sliced { most: usize, pause: Duration },
    /// So many more bytes pass on each connection, then it is closed, in the middle of a message if
    /// need be.
    Limited(u64),
}

/// What happens to a client that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// It is connected with the server.
    Serve,
    /// Its connection is closed at once.
    Close,
    /// Its connection is reset at once.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listening {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Request,
    Response,
}

/// Breaks the next `left` exchanges in which the client sends `pattern`.
struct Rule {
    pattern: Vec<u8>,
    loss: Loss,
    left: usize,
}

/// What the connections share with the proxy's handle.
struct Shared {
    upstream: String,
    accept: Mutex<Accept>,
    rules: Mutex<Vec<Rule>>,
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    /// Counts up at each call that ends the open connections.
    end: watch::Sender<(u64, End)>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    lost_responses: AtomicUsize,
    lost_requests: AtomicUsize,
    random: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

/// A proxy in front of one server; gone, with its connections, when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    wanted: watch::Sender<Listening>,
    actual: watch::Receiver<Listening>,
    listener: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy in front of `upstream` (`host:port`) that passes everything on.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(upstream: impl Into<String>) -> Result<Self> {
        Self::start_seeded(upstream, 0).await
    }

    /// Starts a proxy in front of the server that `url` names, at the port that `url` gives, or
    /// `default_port`.
    ///
    /// # Errors
    /// When `url` does not name exactly one host, or no port is to be had.
    pub async fn before(url: &str, default_port: u16) -> Result<Self> {
        Self::start(address_of(url, default_port)?).await
    }

    /// As [`FaultProxy::start`], with the seed of what is random.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start_seeded(upstream: impl Into<String>, seed: u64) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let first = TcpListener::bind(address).await.context("cannot listen")?;
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            accept: Mutex::new(Accept::Serve),
            rules: Mutex::new(Vec::new()),
            to_server: watch::Sender::new(Flow::Pass),
            to_client: watch::Sender::new(Flow::Pass),
            end: watch::Sender::new((0, End::Close)),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            lost_responses: AtomicUsize::new(0),
            lost_requests: AtomicUsize::new(0),
            random: AtomicU64::new(seed),
        });
        let wanted = watch::Sender::new(Listening::Yes);
        let (tell, actual) = watch::channel(Listening::Yes);
        let listener = tokio::spawn(listen(
            Arc::clone(&shared),
            first,
            address,
            wanted.subscribe(),
            tell,
        ));

        Ok(Self {
            shared,
            address,
            wanted,
            actual,
            listener,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `url`, pointing at the proxy instead.
    ///
    /// # Errors
    /// When `url` is not one.
    pub fn url(&self, url: &str) -> Result<String> {
        with_address(url, self.address)
    }

    /// Sets what happens to the bytes of one direction.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.flow(direction).send_replace(flow);
    }

    /// Sets what happens to the bytes of both directions.
    pub fn set_both(&self, flow: Flow) {
        self.set(Direction::ToServer, flow);
        self.set(Direction::ToClient, flow);
    }

    /// Sets what happens to clients that connect from now on.
    pub fn set_accept(&self, accept: Accept) {
        *lock(&self.shared.accept) = accept;
    }

    /// A server that accepts and never answers. What was sent arrives after [`FaultProxy::thaw`].
    pub fn freeze(&self) {
        self.set_both(Flow::Frozen);
    }

    /// Everything passes again in both directions.
    pub fn thaw(&self) {
        self.set_both(Flow::Pass);
    }

    /// A server that is not running: open connections are reset, new ones refused by the system.
    ///
    /// # Errors
    /// When the proxy itself has died.
    pub async fn down(&self) -> Result<()> {
        self.listening(Listening::No).await?;
        self.reset();

        Ok(())
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// When the port is taken meanwhile.
    pub async fn up(&self) -> Result<()> {
        self.listening(Listening::Yes).await
    }

    /// Closes the open connections, on both sides; new ones are welcome.
    pub fn cut(&self) {
        self.end(End::Close);
    }

    /// Resets the open connections (RST), on both sides; new ones are welcome.
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    /// The next `times` requests that contain `pattern` reach the server and are carried out, but
    /// the answer is lost, and the client's connection is closed instead. This is how a client
    /// comes not to know whether its `COMMIT` happened.
    ///
    /// A pattern may arrive in pieces. Each match uses up one of the times; counted in
    /// [`FaultProxy::lost_responses`] once the answer has come and is lost.
    ///
    /// # Panics
    /// When `pattern` is empty or longer than 256 bytes.
    pub fn drop_response_after(&self, pattern: impl AsRef<[u8]>, times: usize) {
        self.arm(pattern.as_ref(), Loss::Response, times);
    }

    /// The next `times` requests that contain `pattern` do not reach the server; the connection is
    /// closed instead. Of a pattern that arrives in pieces, the first pieces do reach it.
    ///
    /// # Panics
    /// When `pattern` is empty or longer than 256 bytes.
    pub fn drop_request(&self, pattern: impl AsRef<[u8]>, times: usize) {
        self.arm(pattern.as_ref(), Loss::Request, times);
    }

    /// Forgets the patterns that have not come.
    pub fn disarm(&self) {
        lock(&self.shared.rules).clear();
    }

    /// How many answers have been lost by [`FaultProxy::drop_response_after`] so far.
    #[must_use]
    pub fn lost_responses(&self) -> usize {
        self.shared.lost_responses.load(Ordering::SeqCst)
    }

    /// How many requests have been lost by [`FaultProxy::drop_request`] so far.
    #[must_use]
    pub fn lost_requests(&self) -> usize {
        self.shared.lost_requests.load(Ordering::SeqCst)
    }

    /// How many connections have been accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    fn flow(&self, direction: Direction) -> &watch::Sender<Flow> {
        match direction {
            Direction::ToServer => &self.shared.to_server,
            Direction::ToClient => &self.shared.to_client,
        }
    }

    fn end(&self, how: End) {
        self.shared.end.send_modify(|(count, end)| {
            *count += 1;
            *end = how;
        });
    }

    fn arm(&self, pattern: &[u8], loss: Loss, times: usize) {
        assert!(
            !pattern.is_empty() && pattern.len() <= MAX_PATTERN,
            "a pattern has 1 to {MAX_PATTERN} bytes"
        );
        let rule = Rule {
            pattern: pattern.to_vec(),
            loss,
            left: times,
        };
        lock(&self.shared.rules).push(rule);
    }

    async fn listening(&self, listening: Listening) -> Result<()> {
        self.wanted.send_replace(listening);
        let mut actual = self.actual.clone();
        let reached = timeout(REBIND_DEADLINE, actual.wait_for(|now| *now == listening)).await;
        ensure!(
            matches!(reached, Ok(Ok(_))),
            "the proxy did not get to {listening:?}"
        );

        Ok(())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.reset();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts clients while that is wanted.
async fn listen(
    shared: Arc<Shared>,
    first: TcpListener,
    address: SocketAddr,
    mut wanted: watch::Receiver<Listening>,
    actual: watch::Sender<Listening>,
) {
    let mut listener = Some(first);
    loop {
        let want = *wanted.borrow_and_update();
        match (want, listener.as_ref()) {
            (Listening::Yes, Some(open)) => {
                actual.send_replace(Listening::Yes);
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    client = open.accept() => if let Ok((client, _)) = client {
                        accept(&shared, client);
                    },
                }
            }
            (Listening::Yes, None) => match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(_) => sleep(REBIND_PAUSE).await,
            },
            (Listening::No, _) => {
                listener = None;
                actual.send_replace(Listening::No);
                if wanted.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream) {
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    let how = *lock(&shared.accept);
    match how {
        Accept::Serve => {
            // Subscribed here and not in the task: an end that is called right after the client
            // has connected must end it too.
            let end = shared.end.subscribe();
            tokio::spawn(serve(Arc::clone(shared), client, end));
        }
        Accept::Close => drop(client),
        Accept::Reset => {
            client.set_zero_linger().ok();
        }
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);

        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a pair of pumps came to its end.
enum Outcome {
    /// Both sides have finished.
    Finished,
    /// [`Flow::Limited`] is used up, or a request is lost.
    Closed,
    /// An answer is lost.
    AnswerLost,
}

async fn serve(shared: Arc<Shared>, client: TcpStream, mut end: watch::Receiver<(u64, End)>) {
    let open = Open::new(Arc::clone(&shared));
    client.set_nodelay(true).ok();
    let server = tokio::select! {
        server = TcpStream::connect(&shared.upstream) => server,
        _ = end.changed() => {
            if end.borrow().1 == End::Reset {
                client.set_zero_linger().ok();
            }
            return;
        }
    };
    // Where the server refuses, the client sees its connection closed.
    let Ok(server) = server else { return };
    server.set_nodelay(true).ok();

    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let swallow = watch::Sender::new(false);
    let mut up = Pump {
        from: client_read,
        to: server_write,
        flow: shared.to_server.subscribe(),
        shared: Arc::clone(&shared),
    };
    let mut down = Pump {
        from: server_read,
        to: client_write,
        flow: shared.to_client.subscribe(),
        shared: Arc::clone(&shared),
    };
    let outcome = tokio::select! {
        outcome = both(&mut up, &mut down, &swallow) => outcome,
        _ = end.changed() => {
            if end.borrow().1 == End::Reset {
                for (read, write) in [(up.from, down.to), (down.from, up.to)] {
                    read.as_ref().set_zero_linger().ok();
                    // Or its drop would say goodbye in order first.
                    write.forget();
                }
            }
            return;
        }
    };
    if let Outcome::AnswerLost = outcome {
        // The client first: it must see its connection closed, not the server's farewell.
        down.to.shutdown().await.ok();
        let Pump {
            from: client_read,
            to: mut server_write,
            ..
        } = up;
        drop((client_read, down.to));
        shared.lost_responses.fetch_add(1, Ordering::SeqCst);
        drop(open);
        server_write.shutdown().await.ok();
        timeout(DRAIN_DEADLINE, drain(&mut down.from)).await.ok();
    }
}

async fn drain(from: &mut OwnedReadHalf) {
    let mut buffer = vec![0; BUFFER];
    while matches!(from.read(&mut buffer).await, Ok(count) if count > 0) {}
}

/// Runs both directions until both have finished, or one ends the connection.
async fn both(up: &mut Pump, down: &mut Pump, swallow: &watch::Sender<bool>) -> Outcome {
    let requests = up.requests(swallow);
    let answers = down.answers(swallow.subscribe());
    tokio::pin!(requests, answers);

    let (mut requests_done, mut answers_done) = (false, false);
    while !(requests_done && answers_done) {
        tokio::select! {
            ended = &mut requests, if !requests_done => match ended {
                Pumped::Eof => requests_done = true,
                Pumped::End(outcome) => return outcome,
            },
            ended = &mut answers, if !answers_done => match ended {
                Pumped::Eof => answers_done = true,
                Pumped::End(outcome) => return outcome,
            },
        }
    }

    Outcome::Finished
}

enum Pumped {
    /// The source has no more; the other direction goes on.
    Eof,
    /// The connection ends.
    End(Outcome),
}

/// One direction of one connection.
struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    flow: watch::Receiver<Flow>,
    shared: Arc<Shared>,
}

impl Pump {
    /// Client to server: watches for patterns.
    async fn requests(&mut self, swallow: &watch::Sender<bool>) -> Pumped {
        let mut buffer = vec![0; BUFFER];
        let mut seen = Vec::new();
        let mut limit = Limit::default();
        loop {
            let Some(piece) = self.read(&mut buffer).await else {
                return self.eof().await;
            };
            match self.shared.matching(&mut seen, piece) {
                Some(Loss::Request) => {
                    self.shared.lost_requests.fetch_add(1, Ordering::SeqCst);
                    return Pumped::End(Outcome::Closed);
                }
                // Before the request goes out, or its answer might come first.
                Some(Loss::Response) => {
                    swallow.send_replace(true);
                }
                None => {}
            }
            if !self.pass(piece, &mut limit).await {
                return Pumped::End(Outcome::Closed);
            }
        }
    }

    /// Server to client: loses the answer when it is told to.
    async fn answers(&mut self, mut swallow: watch::Receiver<bool>) -> Pumped {
        let mut buffer = vec![0; BUFFER];
        let mut limit = Limit::default();
        loop {
            let Some(piece) = self.read(&mut buffer).await else {
                if *swallow.borrow_and_update() {
                    return Pumped::End(Outcome::AnswerLost);
                }
                return self.eof().await;
            };
            if *swallow.borrow_and_update() {
                // These are the answer's first bytes: all of it, and nothing to the client.
                while matches!(
                    timeout(ANSWER_QUIET, self.from.read(&mut buffer)).await,
                    Ok(Ok(count)) if count > 0
                ) {}
                return Pumped::End(Outcome::AnswerLost);
            }
            if !self.pass(piece, &mut limit).await {
                return Pumped::End(Outcome::Closed);
            }
        }
    }

    /// The next piece; nothing is taken from the source while the flow is frozen.
    async fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        loop {
            let flow = *self.flow.borrow_and_update();
            if flow == Flow::Frozen {
                self.flow.changed().await.ok()?;
                continue;
            }
            tokio::select! {
                biased;
                changed = self.flow.changed() => changed.ok()?,
                count = self.from.read(buffer) => {
                    return match count {
                        Ok(count) if count > 0 => buffer.get(..count),
                        _ => None,
                    };
                }
            }
        }
    }

    /// Passes a piece on as the flow says now; `false` when the connection must end.
    async fn pass(&mut self, piece: &[u8], limit: &mut Limit) -> bool {
        let mut rest = piece;
        while !rest.is_empty() {
            let flow = *self.flow.borrow_and_update();
            match flow {
                Flow::Pass => return self.write(rest).await,
                Flow::Frozen => {
                    if self.flow.changed().await.is_err() {
                        return false;
                    }
                }
                Flow::Blackhole => return true,
                Flow::Latency(delay) => {
                    sleep(delay).await;
                    return self.write(rest).await;
                }
                Flow::Sliced { most, pause } => {
                    let (slice, after) = rest.split_at(self.shared.slice(most, rest.len()));
                    rest = after;
                    if !self.write(slice).await {
                        return false;
                    }
                    sleep(pause).await;
                }
                Flow::Limited(most) => {
                    let allowed = limit.take(most, rest.len());
                    let fits = allowed == rest.len();
                    let (slice, _) = rest.split_at(allowed);
                    return self.write(slice).await && fits;
                }
            }
        }

        true
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.to.write_all(bytes).await.is_ok()
    }

    async fn eof(&mut self) -> Pumped {
        // Held back as bytes are: a frozen peer does not say goodbye either.
        while *self.flow.borrow_and_update() == Flow::Frozen {
            if self.flow.changed().await.is_err() {
                break;
            }
        }
        let closed: io::Result<()> = self.to.shutdown().await;

        if closed.is_ok() {
            Pumped::Eof
        } else {
            Pumped::End(Outcome::Closed)
        }
    }
}

/// What [`Flow::Limited`] still allows on one connection.
#[derive(Default)]
struct Limit {
    most: Option<u64>,
    used: u64,
}

impl Limit {
    /// How many of `wanted` bytes may pass.
    fn take(&mut self, most: u64, wanted: usize) -> usize {
        if self.most != Some(most) {
            *self = Self {
                most: Some(most),
                used: 0,
            };
        }
        let left = usize::try_from(most.saturating_sub(self.used)).unwrap_or(usize::MAX);
        let allowed = wanted.min(left);
        self.used = self
            .used
            .saturating_add(u64::try_from(allowed).unwrap_or(u64::MAX));

        allowed
    }
}

impl Shared {
    /// The rule that `piece` completes, used up by one. `seen` is the end of what came before.
    fn matching(&self, seen: &mut Vec<u8>, piece: &[u8]) -> Option<Loss> {
        let before = seen.len();
        seen.extend_from_slice(piece);
        let mut rules = lock(&self.rules);
        let found = rules.iter_mut().filter(|rule| rule.left > 0).find(|rule| {
            // A match that ended before this piece has been dealt with.
            let from = (before + 1).saturating_sub(rule.pattern.len());
            seen.get(from..)
                .is_some_and(|text| text.windows(rule.pattern.len()).any(|w| w == rule.pattern))
        });
        let loss = found.map(|rule| {
            rule.left -= 1;
            rule.loss
        });
        let keep = seen.len().min(MAX_PATTERN - 1);
        seen.drain(..seen.len() - keep);

        loss
    }

    /// A random length from 1 to `most`, and no more than `length`.
    fn slice(&self, most: usize, length: usize) -> usize {
        let range = u64::try_from(most.clamp(1, length)).unwrap_or(1);
        // SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut value = self
            .random
            .fetch_add(GOLDEN, Ordering::SeqCst)
            .wrapping_add(GOLDEN);
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;

        usize::try_from(value % range + 1).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests;
