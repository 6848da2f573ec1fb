//! What one instance has answered, every other one shows within a second: also when the writer cannot reach
//! Redis, or is gone, and when the reader's relational store does not answer.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use abunfi::Config;
use abunfi::config::Secret;
use abunfi_testkit::{FaultProxy, servers};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::{RECOVERY, eventually};
use crate::support::{Backend, Seed, TestServer, create};

/// The promise of the contract.
const PROMISE: Duration = Duration::from_secs(1);
/// How many users are tried at most until a read shows what was there before: what ends that comes in turns,
/// and may come at once.
const USERS: usize = 10;
/// How long reads go on after a write: the relay's turn, which would hide a broken promise, comes later
/// than the promise.
const WATCHED: Duration = Duration::from_millis(2_200);

/// Two instances over the same three servers. The writer's way to Redis and the reader's way to PostgreSQL
/// lead through proxies of their own.
struct Two {
    writer: TestServer,
    reader: TestServer,
    writers_redis: FaultProxy,
    readers_postgres: FaultProxy,
    config: Config,
}

/// Whatever Redis is to the writer.
#[derive(Debug, Clone, Copy)]
enum Redis {
    Down,
    Frozen,
}

/// What reads after a write have shown.
#[derive(Debug, Default)]
struct Seen {
    /// Answers.
    answers: usize,
    /// Of those, the ones that began after the write was answered and showed what was there before, without
    /// a mark.
    old: usize,
    /// The ones that were served past their time, and not because a store was away.
    revalidated: usize,
}

fn run(test: impl AsyncFnOnce(&Two)) {
    run_with(|config| config.profile_ttl_seconds = 60, test);
}

fn run_with(configure: impl FnOnce(&mut Config), test: impl AsyncFnOnce(&Two)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (stores, mut config) = create(Backend::Servers).await;
        configure(&mut config);
        let before = async |url: String, port| FaultProxy::before(&url, port).await.unwrap();
        let writers_redis = before(servers::require_redis_url(), 6379).await;
        let readers_postgres = before(servers::require_postgres_url(), 5432).await;
        let through = |url: &mut Option<Secret>, proxy: &FaultProxy| {
            let direct = url.as_ref().unwrap().expose().to_owned();
            *url = Some(Secret::new(proxy.url(&direct).unwrap()));
        };
        let (mut a, mut b) = (config.clone(), config.clone());
        through(&mut a.redis_url, &writers_redis);
        through(&mut b.database_url, &readers_postgres);
        let two = Two {
            writer: TestServer::start(Backend::Servers, a).await,
            reader: TestServer::start(Backend::Servers, b).await,
            writers_redis,
            readers_postgres,
            config,
        };
        test(&two).await;
        two.writers_redis.thaw();
        two.readers_postgres.thaw();
        two.writer.stop().await;
        two.reader.stop().await;
        stores.remove().await;
    });
}

impl Two {
    /// A user whose profile the reader serves from L2: its L1 has forgotten it, and L2 has it.
    async fn known_user(&self) -> String {
        let user = self.writer.user().await;
        let profile = format!("users/{user}");
        self.reader.get(&profile).expect(200).await;
        eventually("L2 answers", async || {
            // Longer than L1 keeps it.
            tokio::time::sleep(Duration::from_millis(1_050)).await;
            let read = self.reader.get(&profile).expect(200).await;
            matches!(read.header("x-cache"), Some("hit" | "stale"))
        })
        .await;
        user
    }

    /// Reads the profile again and again, until [`WATCHED`] after the write was `answered`. Every read that
    /// begins a second after that and whose body does not say that a store was away shows `name`.
    async fn shows_within_a_second(
        &self,
        user: &str,
        name: &str,
        answered: &OnceLock<Instant>,
    ) -> Seen {
        let profile = format!("users/{user}");
        let since = || answered.get().map(Instant::elapsed);
        let mut seen = Seen::default();
        while since().is_none_or(|since| since < WATCHED) {
            let begun = since();
            let read = self.reader.get(&profile).send().await;
            if read.status != 200 {
                continue;
            }
            seen.answers += 1;
            // Served past its time while it is read again says `stale` too, and keeps the promise.
            let source = read.header("x-cache").unwrap_or("none").to_owned();
            let is_marked = read.json().get("degraded").is_some();
            seen.revalidated += usize::from(source == "stale" && !is_marked);
            if read.text_at("/name") != name && !is_marked {
                seen.old += usize::from(begun.is_some());
                assert!(
                    begun.is_none_or(|begun| begun < PROMISE),
                    "a read {begun:?} after the answer shows what was there before ({source})"
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seen
    }

    /// Writes, and says when that was `answered`.
    async fn rename(&self, user: &str, name: &str, answered: &OnceLock<Instant>) {
        let patch = json!({ "name": name });
        let profile = format!("users/{user}");
        self.writer.patch(&profile).json(&patch).expect(200).await;
        answered.set(Instant::now()).unwrap();
        let read = self.writer.get(&profile).expect(200).await;
        assert_eq!(read.text_at("/name"), name, "the writer is right at once");
    }

    async fn cut_the_writer_off(&self, how: Redis) {
        match how {
            Redis::Down => self.writers_redis.down().await.unwrap(),
            Redis::Frozen => self.writers_redis.freeze(),
        }
    }
}

#[test]
fn a_write_shows_everywhere_within_a_second_although_its_instance_cannot_reach_redis() {
    run(async |two| {
        let mut old = 0;
        let ways = [Redis::Down, Redis::Frozen, Redis::Down];
        for (tried, how) in ways.into_iter().cycle().take(USERS).enumerate() {
            if tried >= ways.len() && old > 0 {
                break;
            }
            let user = two.known_user().await;
            two.cut_the_writer_off(how).await;
            let answered = OnceLock::new();
            // Reading when the answer comes: what there is to see may be over within two looks.
            let (seen, ()) = tokio::join!(
                two.shows_within_a_second(&user, "Binh", &answered),
                two.rename(&user, "Binh", &answered)
            );
            old += seen.old;
            match how {
                Redis::Down => two.writers_redis.up().await.unwrap(),
                Redis::Frozen => two.writers_redis.thaw(),
            }
            eventually("the writer has told Redis", async || {
                two.writer
                    .get("/health")
                    .send()
                    .await
                    .text_at("/databases/redis/status")
                    == "connected"
            })
            .await;
        }
        assert!(old > 0, "Redis did answer with what was there before");
    });
}

/// What a writer leaves that died between its commit and everything that follows it. `late`: its
/// transaction began long before it `committed`.
async fn died_after_commit(
    two: &Two,
    user: &str,
    name: &str,
    late: bool,
    committed: &OnceLock<Instant>,
) {
    let url = two.config.database_url.as_ref().unwrap();
    let mut connection = PgConnection::connect(url.expose()).await.unwrap();
    let age = if late { 30 } else { 0 };
    let mut transaction = connection.begin().await.unwrap();
    let id: uuid::Uuid = user.parse().unwrap();
    sqlx::query("UPDATE users SET name = $2, version = version + 1 WHERE user_id = $1")
        .bind(id)
        .bind(name)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let effect = json!({"kind": "invalidate", "tags": [format!("user:{user}")]});
    sqlx::query(
        "INSERT INTO outbox (id, effect, created_at)
         VALUES ($1, $2, now() - make_interval(secs => $3))",
    )
    .bind(uuid::Uuid::new_v4())
    .bind(effect.to_string())
    .bind(f64::from(age))
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
    committed.set(Instant::now()).unwrap();
}

#[test]
fn a_write_shows_within_a_second_although_its_instance_died_right_after_the_commit() {
    run(async |two| {
        let mut old = 0;
        for tried in 0..USERS {
            if tried >= 2 && old > 0 {
                break;
            }
            let user = two.known_user().await;
            let committed = OnceLock::new();
            let (seen, ()) = tokio::join!(
                two.shows_within_a_second(&user, "Chi", &committed),
                died_after_commit(two, &user, "Chi", tried % 2 == 1, &committed)
            );
            old += seen.old;
        }
        assert!(old > 0, "Redis did answer with what was there before");
    });
}

#[test]
fn what_is_served_while_it_is_read_again_keeps_the_promise_although_its_writer_is_cut_off() {
    let brief = |config: &mut Config| config.profile_ttl_seconds = 1;
    run_with(brief, async |two| {
        let mut seen = Seen::default();
        for how in [Redis::Down, Redis::Frozen, Redis::Down] {
            let user = two.known_user().await;
            let profile = format!("users/{user}");
            // Past its time, whatever the jitter: what the reader has is served while it is read again, and
            // it is read from a store that does not answer.
            tokio::time::sleep(Duration::from_millis(1_150)).await;
            two.cut_the_writer_off(how).await;
            two.readers_postgres.freeze();
            let answered = OnceLock::new();
            let patch = json!({"name": "Giang"});
            let write = async {
                two.writer.patch(&profile).json(&patch).expect(200).await;
                answered.set(Instant::now()).unwrap();
            };
            // Read from the freeze on: the write waits for Redis, and less than a second after the freeze
            // there is nothing left that may be served.
            let (more, ()) =
                tokio::join!(two.shows_within_a_second(&user, "Giang", &answered), write);
            seen.revalidated += more.revalidated;
            seen.answers += more.answers;
            two.readers_postgres.thaw();
            match how {
                Redis::Down => two.writers_redis.up().await.unwrap(),
                Redis::Frozen => two.writers_redis.thaw(),
            }
            eventually("the new name", async || {
                let read = two.reader.get(&profile).send().await;
                read.status == 200 && read.text_at("/name") == "Giang"
            })
            .await;
        }
        assert!(
            seen.revalidated > 0,
            "what was there before was served while it was read again: {seen:?}"
        );
    });
}

#[test]
fn an_instance_that_cannot_ask_what_was_written_marks_what_it_has_as_stale() {
    run(async |two| {
        let user = two.known_user().await;
        two.readers_postgres.freeze();
        two.cut_the_writer_off(Redis::Down).await;
        let answered = OnceLock::new();
        two.rename(&user, "Dung", &answered).await;
        let seen = two.shows_within_a_second(&user, "Dung", &answered).await;
        assert!(seen.answers > 0, "the reader answered");
        // What it has is better than nothing, and says what it is.
        eventually("a stale copy", async || {
            let read = two.reader.get(&format!("users/{user}")).send().await;
            read.status == 200 && read.header("x-cache") == Some("stale")
        })
        .await;
        two.readers_postgres.thaw();
        two.writers_redis.up().await.unwrap();
        eventually("the new name", async || {
            let read = two.reader.get(&format!("users/{user}")).send().await;
            read.status == 200 && read.text_at("/name") == "Dung"
        })
        .await;
    });
}

/// So that no relay takes a row of the outbox before an hour has passed, and that it is known that there were
/// rows.
const NOT_FOR_THE_RELAY: &str = "
    CREATE SEQUENCE rows_made;
    CREATE FUNCTION date_ahead() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM nextval('rows_made');
        NEW.created_at := NEW.created_at + interval '1 hour';
        RETURN NEW;
    END $$;
    CREATE TRIGGER date_ahead BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION date_ahead();";

#[test]
fn what_a_writer_has_told_redis_leaves_the_outbox_without_the_relay() {
    // What was not told in time would be left to the relay.
    let patient = |config: &mut Config| config.redis.deadline_ms = 10_000;
    run_with(patient, async |two| {
        let url = two.config.database_url.as_ref().unwrap();
        let mut connection = PgConnection::connect(url.expose()).await.unwrap();
        sqlx::raw_sql(NOT_FOR_THE_RELAY)
            .execute(&mut connection)
            .await
            .unwrap();
        let user = two.writer.user_with("10").await;
        two.rename(&user, "Em", &OnceLock::new()).await;
        let made: i64 = sqlx::query_scalar("SELECT last_value FROM rows_made WHERE is_called")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert!(made >= 3, "a user, a posting and a name: {made}");
        let end = Instant::now() + RECOVERY;
        let mut left = i64::MAX;
        while left > 0 {
            assert!(Instant::now() < end, "{left} rows are left to the relay");
            tokio::time::sleep(Duration::from_millis(50)).await;
            left = sqlx::query_scalar("SELECT count(*) FROM outbox")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        }
        connection.close().await.unwrap();
    });
}
