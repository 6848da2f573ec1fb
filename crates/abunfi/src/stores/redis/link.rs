//! The connection: made in the background, made again when it breaks, and never waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult};
use redis::{ServerErrorKind, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::notices::Notices;
use super::target::Target;
use crate::error::{StoreError, StoreKind};
use crate::ids::random_bytes;
use crate::stores::breaker::Breaker;
use crate::transaction::guard;

/// The first pause after a connect that failed; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause: how late a server that is back may be noticed.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often this instance shows that it is heard. Three beats fit into the second within which silence
/// must be noticed.
const HEARTBEAT: Duration = Duration::from_millis(300);
/// Deadlines missed in a row after which the connection is given up: its other end may be gone without a
/// word, and only a new one would show it.
const TIMEOUTS_TO_RECONNECT: u32 = 4;

/// A connection of any of the three forms.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// A connection that serves.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: Connection,
    /// Which server process it is, of which start: see [`super::keys`].
    pub(super) run: Arc<str>,
    serial: u64,
}

/// What calls go through.
pub(super) struct Link {
    target: Target,
    deadline: Duration,
    connect_timeout: Duration,
    breaker: Breaker,
    live: watch::Sender<Option<Live>>,
    /// Why there is no connection.
    reason: Mutex<&'static str>,
    /// How many connects were tried.
    attempts: watch::Sender<u64>,
    timeouts_in_a_row: AtomicU32,
    /// The serial of the newest connection, and of the newest that was found broken.
    serial: AtomicU64,
    broken: AtomicU64,
    broke: Notify,
    /// A node of the Cluster went away: when it is back it may hold what was invalidated.
    node_lost: AtomicBool,
    pub(super) notices: Notices,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("target", &self.target)
            .field("connected", &self.live.borrow().is_some())
            .finish_non_exhaustive()
    }
}

/// Whether a call that was sent and not answered may be called "not done".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes nothing that anyone relies on: reads, the cache, counters.
    Harmless,
    /// Someone wants to know whether it happened.
    Write,
}

impl Link {
    pub(super) fn new(
        target: Target,
        deadline: Duration,
        connect_timeout: Duration,
        notices: Notices,
    ) -> Arc<Self> {
        Arc::new(Self {
            target,
            deadline,
            connect_timeout,
            breaker: Breaker::new(StoreKind::KeyValue),
            live: watch::Sender::new(None),
            reason: Mutex::new("not connected yet"),
            attempts: watch::Sender::new(0),
            timeouts_in_a_row: AtomicU32::new(0),
            serial: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            broke: Notify::new(),
            node_lost: AtomicBool::new(false),
            notices,
        })
    }

    /// Waits until the first connect has succeeded or failed.
    pub(super) async fn first_attempt(&self) {
        let mut attempts = self.attempts.subscribe();
        // An error means that the sender is gone, and it is in `self`.
        drop(attempts.wait_for(|attempts| *attempts > 0).await);
    }

    pub(super) const fn is_cluster(&self) -> bool {
        self.target.is_cluster()
    }

    /// Runs `call` on the connection: at once or not at all, within the deadline, past the breaker.
    pub(super) async fn call<T, F, R>(&self, kind: Kind, call: F) -> Result<T, StoreError>
    where
        F: FnOnce(Live) -> R,
        R: Future<Output = RedisResult<T>>,
    {
        guard::outside(StoreKind::KeyValue)?;
        let Some(live) = self.live.borrow().clone() else {
            // At once, so it is no matter for the breaker.
            let reason = *self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(StoreError::unavailable(StoreKind::KeyValue, reason));
        };
        self.breaker.admit()?;
        let serial = live.serial;
        let result = match tokio::time::timeout(self.deadline, call(live)).await {
            Ok(Ok(value)) => {
                self.timeouts_in_a_row.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                // A Cluster's connection mends itself, node by node.
                if must_reconnect(&error) && !self.is_cluster() {
                    self.mark_broken(serial);
                }
                Err(store_error(&error, kind))
            }
            Err(_elapsed) => {
                let timeouts = self.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                if timeouts >= TIMEOUTS_TO_RECONNECT && !self.is_cluster() {
                    self.mark_broken(serial);
                }
                Err(lost(kind, "no answer within the deadline"))
            }
        };
        self.breaker.record(&result);
        result
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    fn mark_broken(&self, serial: u64) {
        self.broken.fetch_max(serial, Ordering::SeqCst);
        self.broke.notify_one();
    }

    fn is_broken(&self, serial: u64) -> bool {
        self.broken.load(Ordering::SeqCst) >= serial
    }

    /// Has everything in the cache forgotten once a node of the Cluster was away: its key names cannot tell
    /// one start of a node from the next.
    async fn after_a_lost_node(&self) {
        if !self.node_lost.swap(false, Ordering::SeqCst) {
            return;
        }
        let forget = self.call(Kind::Harmless, |live| self.notices.forget_everything(live));
        if let Err(error) = forget.await {
            tracing::debug!(%error, "the cache is forgotten later");
            self.node_lost.store(true, Ordering::SeqCst);
        }
    }

    /// What a server says unasked: messages of other instances, and that it is gone.
    fn push(&self, serial: u64, push: &PushInfo) {
        match push.kind {
            PushKind::Message => self.notices.received(&push.data),
            PushKind::Disconnection if self.is_cluster() => {
                self.node_lost.store(true, Ordering::SeqCst);
                self.notices.lost();
            }
            PushKind::Disconnection => self.mark_broken(serial),
            _ => {}
        }
    }
}

/// Connects, keeps the connection alive, and connects again, until the link is dropped.
pub(super) async fn supervise(link: Weak<Link>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(strong) = link.upgrade() else { return };
        let connected = connect(&strong).await;
        // Counted last: who waits for the first attempt finds its result.
        let count = |link: &Link| link.attempts.send_modify(|attempts| *attempts += 1);
        match connected {
            Ok(live) => {
                pause = FIRST_PAUSE;
                let serial = live.serial;
                tracing::info!(store = "redis", "connected");
                strong.timeouts_in_a_row.store(0, Ordering::Relaxed);
                strong.breaker.record(&Ok(()));
                strong.live.send_replace(Some(live));
                count(&strong);
                drop(strong);
                while_it_lasts(&link, serial).await;
                let Some(strong) = link.upgrade() else { return };
                strong.set_reason("the connection was lost");
                strong.live.send_replace(None);
                strong.notices.lost();
                tracing::warn!(store = "redis", "the connection was lost");
            }
            Err(reason) => {
                strong.set_reason(reason);
                count(&strong);
                tracing::debug!(store = "redis", reason, "no connection");
            }
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Link {
    fn set_reason(&self, reason: &'static str) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

async fn connect(link: &Arc<Link>) -> Result<Live, &'static str> {
    let serial = link.serial.fetch_add(1, Ordering::SeqCst) + 1;
    let weak = Arc::downgrade(link);
    let pushes = Arc::new(move |push: PushInfo| {
        let link = weak.upgrade().ok_or(())?;
        link.push(serial, &push);
        Ok::<(), ()>(())
    });
    let set_up = async {
        let mut connection = link.target.connect(link.connect_timeout, pushes).await?;
        let run = run_id(&mut connection).await?;
        link.notices.subscribe(&mut connection).await?;
        Ok::<_, RedisError>((connection, run))
    };
    // Connecting, and three round trips after it.
    let most = link.connect_timeout + link.deadline * 3;
    match tokio::time::timeout(most, set_up).await {
        Ok(Ok((connection, run))) => Ok(Live {
            connection,
            run,
            serial,
        }),
        Ok(Err(error)) => Err(reason(&error)),
        Err(_elapsed) => Err("no answer within the connect time-out"),
    }
}

/// Which start of which server this is. On a Cluster, which has many, always the same.
async fn run_id(connection: &mut Connection) -> RedisResult<Arc<str>> {
    if matches!(connection, Connection::Cluster(_)) {
        return Ok(Arc::from("cluster"));
    }
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(connection)
        .await?;
    let run = info
        .lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .unwrap_or("unknown");
    Ok(run.chars().take(12).collect::<String>().into())
}

async fn while_it_lasts(link: &Weak<Link>, serial: u64) {
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(link) = link.upgrade() else { return };
        tokio::select! {
            () = link.broke.notified() => {}
            _ = beats.tick() => {
                let beat = link.call(Kind::Harmless, |live| link.notices.heartbeat(live));
                if let Err(error) = beat.await {
                    tracing::debug!(%error, "a heartbeat was missed");
                }
                link.notices.check_silence(Instant::now());
                link.after_a_lost_node().await;
            }
        }
        if link.is_broken(serial) {
            return;
        }
    }
}

fn must_reconnect(error: &RedisError) -> bool {
    // An old master after a failover refuses writes: only Sentinel knows the new one.
    error.is_unrecoverable_error()
        || error.is_connection_dropped()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

fn lost(kind: Kind, reason: &'static str) -> StoreError {
    match kind {
        Kind::Harmless => StoreError::unavailable(StoreKind::KeyValue, reason),
        Kind::Write => StoreError::OutcomeUnknown {
            store: StoreKind::KeyValue,
            reason: reason.to_owned(),
        },
    }
}

/// The driver's texts may hold addresses: they are translated, never passed on.
fn store_error(error: &RedisError, kind: Kind) -> StoreError {
    if error.is_connection_refusal() {
        return StoreError::unavailable(StoreKind::KeyValue, reason(error));
    }
    match error.kind() {
        ErrorKind::Io => lost(kind, reason(error)),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::NoPerm
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask,
        )
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound => {
            StoreError::unavailable(StoreKind::KeyValue, reason(error))
        }
        _ => match error.code() {
            Some("OOM") => StoreError::Overloaded {
                store: StoreKind::KeyValue,
                reason: "the server is out of memory".to_owned(),
                retry_after: Duration::from_secs(1),
            },
            Some("NOAUTH" | "WRONGPASS") => {
                StoreError::unavailable(StoreKind::KeyValue, "the server refuses the credentials")
            }
            // A script that outlives its time, or a save that fails: the server says so to everyone.
            Some("BUSY" | "MISCONF" | "NOREPLICAS") => {
                StoreError::unavailable(StoreKind::KeyValue, "the server takes no writes now")
            }
            code => StoreError::unexpected(
                StoreKind::KeyValue,
                format!("{} ({})", error.category(), code.unwrap_or("no code")),
            ),
        },
    }
}

fn reason(error: &RedisError) -> &'static str {
    if error.is_connection_refusal() {
        return "the connection was refused";
    }
    if error.is_timeout() {
        return "connecting took too long";
    }
    match error.kind() {
        ErrorKind::Io => "the connection was lost",
        ErrorKind::AuthenticationFailed => "the server refuses the credentials",
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "the server is loading its data",
        ErrorKind::Server(ServerErrorKind::NoPerm) => "the server does not permit the command",
        ErrorKind::Server(ServerErrorKind::ReadOnly) => "the server is a replica",
        ErrorKind::MasterNameNotFoundBySentinel => "the Sentinels know no such master",
        ErrorKind::ClusterConnectionNotFound | ErrorKind::Server(ServerErrorKind::ClusterDown) => {
            "the Cluster is down"
        }
        _ => "the server cannot be used",
    }
}

/// Between half of `pause` and all of it, so that instances do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let permille = 500 + u32::from(u16::from_le_bytes(random_bytes())) % 501;
    pause * permille / 1_000
}
