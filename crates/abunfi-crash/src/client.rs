//! One client: asks, keeps what it was told, and asks again with the same key until it knows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abunfi::ledger::{COMMIT_CHUNK, MAX_BATCH_ITEMS};
use anyhow::Result;
use serde_json::{Value, json};

use crate::history::{End, Entry, Journal};
use crate::operations::{self, Effect, Hold, Request};
use crate::random::Random;
use crate::report::{Check, Violations};

/// Longer than the service may take.
const PATIENCE: Duration = Duration::from_secs(35);
/// Some callers hang up this soon; their posting goes on without them.
const HASTE: Duration = Duration::from_millis(15);
/// Before who was turned away comes back.
const PAUSE: Duration = Duration::from_millis(25);
/// After healing, everything must be known within this time.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Answers of which every client asks again at the end of a cycle.
const REPLAYED_EACH: usize = 4;
/// Refusals that the drawn operations may meet.
const EXPECTED_REFUSALS: [&str; 3] = ["insufficient_funds", "invalid_transition", "batch_failed"];

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Mutex<Vec<u16>>,
    pub(crate) admin_key: String,
    pub(crate) users: Vec<String>,
    pub(crate) holds: Mutex<Vec<Hold>>,
    pub(crate) violations: Violations,
    /// Requests of the cycle that were acknowledged so far.
    pub(crate) acknowledged: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) replays: AtomicU64,
}

impl Shared {
    fn port(&self, random: &mut Random) -> u16 {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        random.pick(&ports).copied().unwrap_or_default()
    }

    fn holds(&self) -> std::sync::MutexGuard<'_, Vec<Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Reply {
    Answer {
        status: u16,
        replayed: bool,
        body: String,
    },
    /// It never left.
    NotSent(String),
    /// It may have been done.
    Lost(String),
}

#[derive(Debug)]
pub(crate) struct Client {
    shared: Arc<Shared>,
    http: reqwest::Client,
    random: Random,
    journal: Journal,
    /// `cycle.client`, which begins all its keys of a cycle.
    name: String,
    /// Sends batches that take several commits.
    pub(crate) sends_large: bool,
    pub(crate) entries: Vec<Entry>,
    /// The newest version of each account that it saw.
    versions: HashMap<String, i64>,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, random: Random, journal: Journal) -> Result<Self> {
        Ok(Self {
            shared,
            http: reqwest::Client::builder().timeout(PATIENCE).build()?,
            random,
            journal,
            name: String::new(),
            sends_large: false,
            entries: Vec::new(),
            versions: HashMap::new(),
        })
    }

    /// Works until told to stop, then until it knows what became of everything it asked.
    pub(crate) async fn cycle(
        mut self,
        name: String,
        stop: Arc<AtomicBool>,
        healed: Arc<tokio::sync::Notify>,
    ) -> Result<Self> {
        self.name = name;
        self.entries.clear();
        let is_healed = healed.notified();
        tokio::pin!(is_healed);
        is_healed.as_mut().enable();
        while !stop.load(Ordering::Relaxed) {
            self.act().await?;
        }
        is_healed.await;
        self.settle_unknowns().await?;
        self.replay_some().await?;
        Ok(self)
    }

    async fn act(&mut self) -> Result<()> {
        match self.random.between(0, 100) {
            0..10 => self.read().await,
            10..14 => self.replay_one(false).await?,
            14..18 => self.settle_one_unknown().await?,
            _ => {
                let request = self.draw();
                self.ask(request).await?;
            }
        }
        Ok(())
    }

    fn draw(&mut self) -> Request {
        let key = format!("{}.{}", self.name, self.entries.len());
        // The lower of two: some accounts are hot.
        let users = &self.shared.users;
        let at = self
            .random
            .index(users.len())
            .min(self.random.index(users.len()));
        let user = users.get(at).cloned().unwrap_or_default();
        let random = &mut self.random;
        match random.between(0, 100) {
            0..25 => {
                let mut holds = self.shared.holds();
                let at = random.index(holds.len());
                if let Some(hold) = holds.get(at).cloned() {
                    // Mostly taken away, sometimes left for another client to race for.
                    if random.chance(70) {
                        holds.swap_remove(at);
                    }
                    return operations::settle(random, key, &hold);
                }
                operations::post(random, key, &user)
            }
            25..31 => {
                let items = usize::try_from(random.between(2, 10)).unwrap_or(2);
                operations::batch(random, key, users, true, items)
            }
            31..36 if self.sends_large => {
                // More than one part, which one user's items in one lane are: a kill between them leaves some
                // done and some not.
                let more = 1 + random.index(MAX_BATCH_ITEMS - COMMIT_CHUNK);
                let items = COMMIT_CHUNK + more;
                operations::batch(random, key, std::slice::from_ref(&user), false, items)
            }
            31..36 => {
                let mut items = usize::try_from(random.between(2, 14)).unwrap_or(2);
                // Whatever the nemesis, some take more than one commit.
                if random.chance(10) {
                    items += COMMIT_CHUNK;
                }
                operations::batch(random, key, users, false, items)
            }
            _ => operations::post(random, key, &user),
        }
    }

    /// Sends a new request once.
    async fn ask(&mut self, request: Request) -> Result<()> {
        let patience = if self.random.chance(4) {
            HASTE
        } else {
            PATIENCE
        };
        self.entries.push(Entry {
            request,
            end: End::Unknown,
            attempts: 0,
            answer_was_lost: false,
        });
        self.attempt(self.entries.len() - 1, patience).await
    }

    /// Sends a request that is new or unknown, and notes what is known then.
    async fn attempt(&mut self, at: usize, patience: Duration) -> Result<()> {
        let Some(entry) = self.entries.get_mut(at) else {
            return Ok(());
        };
        entry.attempts += 1;
        let (request, is_first) = (entry.request.clone(), entry.attempts == 1);
        let attempt = entry.attempts;
        let port = self.shared.port(&mut self.random);
        self.journal.invoke(&request, attempt, port)?;
        let reply = self.send(port, &request, patience).await;
        let end = match reply {
            Reply::Answer {
                status,
                replayed,
                body,
            } => {
                let end = self.understand(&request, status, body, is_first);
                self.journal.told(
                    &request.key,
                    event(&end),
                    &json!(
                    {"status": status, "replayed": replayed, "end": describe(&end)}),
                )?;
                if let (End::Done { body, .. }, Some(entry)) = (&end, self.entries.get_mut(at)) {
                    entry.answer_was_lost = !is_first && replayed;
                    self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.learn(&request, body, !replayed);
                }
                end
            }
            Reply::NotSent(why) if is_first => {
                self.journal.told(&request.key, "fail", &json!(why))?;
                End::NotDone {
                    code: "not_sent".to_owned(),
                }
            }
            Reply::NotSent(why) | Reply::Lost(why) => {
                self.journal.told(&request.key, "unknown", &json!(why))?;
                End::Unknown
            }
        };
        if matches!(end, End::Unknown | End::NotDone { .. }) {
            tokio::time::sleep(PAUSE).await;
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.end = end;
        }
        Ok(())
    }

    async fn send(&self, port: u16, request: &Request, patience: Duration) -> Reply {
        let url = format!("http://127.0.0.1:{port}/api/v1/{}", request.path);
        let sent = self
            .http
            .post(url)
            .bearer_auth(&self.shared.admin_key)
            .header("idempotency-key", &request.key)
            .json(&request.body)
            .timeout(patience)
            .send();
        let answer = match sent.await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return Reply::NotSent(error.to_string()),
            Err(error) => return Reply::Lost(error.to_string()),
        };
        let status = answer.status().as_u16();
        let replayed = answer
            .headers()
            .get("idempotent-replayed")
            .is_some_and(|value| value == "true");
        match answer.text().await {
            Ok(body) => Reply::Answer {
                status,
                replayed,
                body,
            },
            Err(error) => Reply::Lost(error.to_string()),
        }
    }

    fn understand(&self, request: &Request, status: u16, body: String, is_first: bool) -> End {
        let value: Value = serde_json::from_str(&body).unwrap_or_default();
        let code = value
            .get("code")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        match (status, code.as_str()) {
            (200..300, _) if has_item(&value, 500) => {
                self.shared
                    .violations
                    .add(Check::ServerError, format!("{}: {body}", request.key));
                End::Unknown
            }
            (200..300, _) if has_item(&value, 503) => End::Unknown,
            (200..300, _) => End::Done { status, body },
            (503, "store_unavailable" | "overloaded") if is_first => End::NotDone { code },
            (503, _) | (409, "idempotency_in_progress") => End::Unknown,
            (400..500, _) => {
                if !EXPECTED_REFUSALS.contains(&code.as_str()) {
                    let detail = format!("{} to {}: {status} {body}", request.key, request.path);
                    self.shared.violations.add(Check::UnexpectedAnswer, detail);
                }
                End::Refused { status, body, code }
            }
            _ => {
                let detail = format!("{} to {}: {status} {body}", request.key, request.path);
                self.shared.violations.add(Check::ServerError, detail);
                End::Unknown
            }
        }
    }

    /// Takes from an answer what later requests and checks use.
    fn learn(&mut self, request: &Request, body: &str, is_fresh: bool) {
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        if let Effect::Settle { .. } = request.effect {
            self.see_transaction(&value, is_fresh, false);
        } else if let Some(results) = value.get("results").and_then(Value::as_array) {
            for item in results
                .iter()
                .filter_map(|result| result.get("transaction"))
            {
                // Several of one account in one answer are not in the order of their versions for others.
                self.see_transaction(item, is_fresh, true);
            }
        } else {
            self.see_transaction(&value, is_fresh, request.path.ends_with("/transactions"));
        }
    }

    fn see_transaction(&mut self, transaction: &Value, is_fresh: bool, is_new: bool) {
        let text = |name| {
            transaction
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let user = text("user_id").to_owned();
        if is_fresh
            && let Some(version) = transaction
                .pointer("/balance/version")
                .and_then(Value::as_i64)
        {
            let newest = self.versions.entry(user.clone()).or_default();
            *newest = (*newest).max(version);
        }
        if is_new && text("status") == "pending" {
            let transaction = text("id").to_owned();
            self.shared.holds().push(Hold { user, transaction });
        }
    }

    /// Reads a balance, which must be whole, and no older than what this client has seen.
    async fn read(&mut self) {
        let Some(user) = self.random.pick(&self.shared.users).cloned() else {
            return;
        };
        let known = self.versions.get(&user).copied().unwrap_or_default();
        let port = self.shared.port(&mut self.random);
        let Some(body) = get(
            &self.http,
            &self.shared,
            port,
            &format!("users/{user}/balances"),
        )
        .await
        else {
            return;
        };
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        for balance in body
            .get("data")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let figure = |name| balance.get(name).and_then(Value::as_str).and_then(micros);
            let (available, locked) = (figure("available"), figure("locked"));
            let is_whole = match (available, locked, figure("total")) {
                (Some(available), Some(locked), Some(total)) => {
                    available >= 0 && locked >= 0 && available + locked == total
                }
                _ => false,
            };
            if !is_whole {
                self.shared
                    .violations
                    .add(Check::Balance, balance.to_string());
            }
            let version = balance
                .get("version")
                .and_then(Value::as_i64)
                .unwrap_or_default();
            if version < known {
                let detail = format!("{user}: version {version} was read after {known} was seen");
                self.shared.violations.add(Check::ReadsGoForward, detail);
            }
            self.versions.insert(user.clone(), version.max(known));
        }
    }

    async fn settle_one_unknown(&mut self) -> Result<()> {
        let unknown = self
            .entries
            .iter()
            .position(|entry| entry.end == End::Unknown);
        match unknown {
            Some(at) => self.attempt(at, PATIENCE).await,
            None => Ok(()),
        }
    }

    async fn settle_unknowns(&mut self) -> Result<()> {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            let unknown: Vec<usize> = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.end == End::Unknown)
                .map(|(at, _)| at)
                .collect();
            let Some(first) = unknown.first() else {
                return Ok(());
            };
            if Instant::now() > until {
                let key = self
                    .entries
                    .get(*first)
                    .map(|entry| entry.request.key.clone());
                let detail = format!("{} requests, the first of them {key:?}", unknown.len());
                self.shared.violations.add(Check::Convergence, detail);
                return Ok(());
            }
            for at in unknown {
                self.attempt(at, PATIENCE).await?;
            }
        }
    }

    async fn replay_some(&mut self) -> Result<()> {
        for _ in 0..REPLAYED_EACH {
            self.replay_one(true).await?;
        }
        Ok(())
    }

    /// Sends again what is known, and must be told the same, byte for byte. `must`: nothing stands in the way.
    async fn replay_one(&mut self, must: bool) -> Result<()> {
        let Some(entry) = self.random.pick(&self.entries) else {
            return Ok(());
        };
        let (End::Done { status, body } | End::Refused { status, body, .. }) = entry.end.clone()
        else {
            return Ok(());
        };
        let request = entry.request.clone();
        let until = Instant::now() + SETTLED_WITHIN;
        let why = loop {
            let port = self.shared.port(&mut self.random);
            self.journal.invoke(&request, 0, port)?;
            let why = match self.send(port, &request, PATIENCE).await {
                Reply::Answer {
                    status: again @ (503 | 409),
                    body: text,
                    ..
                } if again != status => text,
                // One lane of a batch did not reach the database.
                Reply::Answer { body: text, .. } if is_partly_away(&text) => text,
                Reply::Answer {
                    status: again,
                    replayed,
                    body: text,
                } => {
                    self.shared.replays.fetch_add(1, Ordering::Relaxed);
                    if (again, text.as_str(), replayed) != (status, body.as_str(), true) {
                        let detail = format!(
                            "{}: first {status} {body}; again {again} (replayed: {replayed}) {text}",
                            request.key
                        );
                        self.shared.violations.add(Check::Replay, detail);
                    }
                    return Ok(());
                }
                Reply::NotSent(why) | Reply::Lost(why) => why,
            };
            if !must {
                return Ok(());
            }
            if Instant::now() > until {
                break why;
            }
            tokio::time::sleep(PAUSE).await;
        };
        let detail = format!("{}: its replay after healing fails: {why}", request.key);
        self.shared.violations.add(Check::Convergence, detail);
        Ok(())
    }
}

/// The body of a read that was answered.
pub(crate) async fn get(
    http: &reqwest::Client,
    shared: &Shared,
    port: u16,
    path: &str,
) -> Option<Value> {
    let url = format!("http://127.0.0.1:{port}/api/v1/{path}");
    let answer = http
        .get(url)
        .bearer_auth(&shared.admin_key)
        .send()
        .await
        .ok()?;
    let status = answer.status().as_u16();
    let body = answer.text().await.ok()?;
    if status != 200 && status != 503 {
        let detail = format!("GET {path}: {status} {body}");
        shared.violations.add(Check::ServerError, detail);
    }
    (status == 200).then(|| serde_json::from_str(&body).unwrap_or_default())
}

/// Asks for the trial balance all the time: in every read all accounts sum to zero.
pub(crate) async fn watch_books(
    shared: Arc<Shared>,
    mut random: Random,
    stop: Arc<AtomicBool>,
) -> u64 {
    let http = reqwest::Client::new();
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let port = shared.port(&mut random);
        if let Some(body) = get(&http, &shared, port, "ledger/trial-balance").await {
            reads += 1;
            for row in body
                .get("data")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let figure = |name| row.get(name).and_then(Value::as_str).and_then(micros);
                let accounts = ["users", "custody", "yield", "promotions", "fees"].map(figure);
                let sum: Option<i128> = accounts.into_iter().sum();
                if sum != Some(0) || figure("net") != Some(0) {
                    shared.violations.add(Check::ZeroSum, row.to_string());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    reads
}

/// Whether an item of a batch was answered with this status.
/// Whether a batch's answer says of some items that they were not done, or may not have been.
fn is_partly_away(body: &str) -> bool {
    serde_json::from_str(body).is_ok_and(|value| has_item(&value, 503))
}

fn has_item(body: &Value, status: u64) -> bool {
    let results = body.get("results").and_then(Value::as_array);
    let is =
        |result: &Value| result.pointer("/error/status").and_then(Value::as_u64) == Some(status);
    results.into_iter().flatten().any(is)
}

fn event(end: &End) -> &'static str {
    match end {
        End::Done { .. } => "ok",
        End::Refused { .. } | End::NotDone { .. } => "fail",
        End::Unknown => "unknown",
    }
}

fn describe(end: &End) -> Value {
    match end {
        End::Done { body, .. } => json!(body),
        End::Refused { code, .. } | End::NotDone { code } => json!(code),
        End::Unknown => Value::Null,
    }
}

/// An amount, with a minus perhaps, in millionths.
pub(crate) fn micros(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: i128 = whole.parse().ok()?;
    let rest: i128 = format!("{rest:0<6}").parse().ok()?;
    Some(sign * (whole * 1_000_000 + rest))
}
