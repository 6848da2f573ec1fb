//! What instances tell each other: one channel, on the same connection as everything else.
//!
//! A message is a sequence number of the server's and, after a blank, JSON. Invalidations count the number
//! up in the same script that carries them out, heartbeats repeat it. So a listener knows that it missed
//! nothing while the numbers follow each other and keep coming.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{RedisResult, Script, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::cache::{TAG_KEEP, millis, new_version};
use super::keys::Keys;
use super::link::{Connection, Live};
use crate::cache::Notice;
use crate::ids::random_bytes;

/// Silence after which notices count as missed. The contract allows a second in all.
const LONGEST_SILENCE: Duration = Duration::from_millis(900);
/// Notices that a slow listener may be behind before it is told that it lost some.
const BACKLOG: usize = 1_024;

#[derive(Debug)]
pub(super) struct Notices {
    channel: String,
    keys: Keys,
    /// Tells this instance's own messages from the others'.
    instance: String,
    heartbeat: Script,
    listeners: broadcast::Sender<Notice>,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The newest number; `None`: not known since the last loss.
    sequence: Option<u64>,
    at: Option<Instant>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    from: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    flush: bool,
}

impl Notices {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            channel: keys.channel(),
            keys,
            instance: hex::encode(random_bytes::<8>()),
            heartbeat: Script::new(include_str!("heartbeat.lua")),
            listeners: broadcast::Sender::new(BACKLOG),
            heard: Mutex::default(),
        }
    }

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Notice> {
        self.listeners.subscribe()
    }

    /// The text of an invalidation, without its number.
    pub(super) fn invalidation(&self, keys: &[String], tags: &[String]) -> String {
        self.text(Message {
            from: self.instance.clone(),
            keys: keys.to_vec(),
            tags: tags.to_vec(),
            flush: false,
        })
    }

    /// The text that says that everything was dropped.
    pub(super) fn flush(&self) -> String {
        self.text(Message {
            from: self.instance.clone(),
            keys: Vec::new(),
            tags: Vec::new(),
            flush: true,
        })
    }

    fn text(&self, message: Message) -> String {
        // Strings always have a JSON; and what has none would be heard as "something was missed".
        serde_json::to_string(&message).unwrap_or_default()
    }

    /// Before a connection serves. Whatever was missed until now is missed by everyone who listens.
    pub(super) async fn subscribe(&self, connection: &mut Connection) -> RedisResult<()> {
        match connection {
            Connection::Single(connection) => connection.subscribe(&self.channel).await?,
            Connection::Cluster(connection) => connection.subscribe(&self.channel).await?,
        }
        self.lost();
        Ok(())
    }

    pub(super) async fn heartbeat(&self, mut live: Live) -> RedisResult<()> {
        if matches!(live.connection, Connection::Cluster(_)) {
            // Nodes do not share a counter: there, silence is all that is listened for.
            return redis::cmd("PUBLISH")
                .arg(&self.channel)
                .arg("- ")
                .query_async(&mut live.connection)
                .await;
        }
        self.heartbeat
            .key(self.keys.sequence(&live.run))
            .arg(&self.channel)
            .invoke_async(&mut live.connection)
            .await
    }

    /// Voids all of a Cluster's cache, and says so.
    pub(super) async fn forget_everything(&self, mut live: Live) -> RedisResult<()> {
        redis::cmd("SET")
            .arg(self.keys.everything(&live.run))
            .arg(new_version())
            .arg("PX")
            .arg(millis(TAG_KEEP))
            .query_async::<()>(&mut live.connection)
            .await?;
        redis::cmd("PUBLISH")
            .arg(&self.channel)
            .arg(format!("- {}", self.flush()))
            .query_async(&mut live.connection)
            .await
    }

    /// Something may have been missed.
    pub(super) fn lost(&self) {
        let mut heard = self.lock();
        heard.sequence = None;
        heard.at = Some(Instant::now());
        drop(heard);
        self.tell(Notice::Lost);
    }

    pub(super) fn check_silence(&self, now: Instant) {
        let silent = self
            .lock()
            .at
            .is_some_and(|at| now.saturating_duration_since(at) > LONGEST_SILENCE);
        if silent {
            self.lost();
        }
    }

    /// A message as it came: channel and payload.
    pub(super) fn received(&self, data: &[Value]) {
        let [_channel, Value::BulkString(payload)] = data else {
            return self.lost();
        };
        let text = std::str::from_utf8(payload).unwrap_or_default();
        let Some((sequence, message)) = text.split_once(' ') else {
            return self.lost();
        };
        if !self.follows(sequence.parse().ok(), message.is_empty()) {
            self.tell(Notice::Lost);
        }
        if message.is_empty() {
            return;
        }
        match serde_json::from_str::<Message>(message) {
            Ok(message) if message.from == self.instance => {}
            Ok(Message { flush: true, .. }) | Err(_) => self.tell(Notice::Lost),
            Ok(Message { keys, tags, .. }) => self.tell(Notice::Invalidated { keys, tags }),
        }
    }

    /// Whether nothing is missing between the last message and this one.
    fn follows(&self, sequence: Option<u64>, is_heartbeat: bool) -> bool {
        let mut heard = self.lock();
        heard.at = Some(Instant::now());
        let Some(sequence) = sequence else {
            return true;
        };
        let expected = heard
            .sequence
            .map(|last| if is_heartbeat { last } else { last + 1 });
        heard.sequence = Some(sequence);
        expected.is_none_or(|expected| expected == sequence)
    }

    fn tell(&self, notice: Notice) {
        // Nobody may be listening: then nobody holds what it would void.
        drop(self.listeners.send(notice));
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    fn message(text: &str) -> Vec<Value> {
        vec![
            Value::BulkString(b"channel".to_vec()),
            Value::BulkString(text.as_bytes().to_vec()),
        ]
    }

    fn notices() -> (Notices, broadcast::Receiver<Notice>) {
        let notices = Notices::new(Keys::new("test:"));
        let listener = notices.listen();
        (notices, listener)
    }

    #[test]
    fn what_other_instances_invalidate_is_told_and_ones_own_is_not() {
        let (notices, mut listener) = notices();
        let (other, _) = self::notices();
        let tags = ["t".to_owned()];
        notices.received(&message(&format!("7 {}", other.invalidation(&[], &tags))));
        notices.received(&message(&format!("8 {}", notices.invalidation(&[], &tags))));
        notices.received(&message("8 "));
        let told = listener.try_recv().unwrap();
        assert_eq!(
            told,
            Notice::Invalidated {
                keys: Vec::new(),
                tags: tags.to_vec()
            }
        );
        assert!(listener.try_recv().is_err());
    }

    #[test]
    fn a_gap_a_restart_and_what_nobody_can_read_are_losses() {
        for texts in [
            ["7 ", "8 "],
            ["7 ", "3 "],
            ["7 ", "9 {\"from\":\"x\",\"keys\":[]}"],
            ["7 ", "8 {"],
            ["7 ", "x"],
        ] {
            let (notices, mut listener) = notices();
            for text in texts {
                notices.received(&message(text));
            }
            assert_eq!(listener.try_recv().unwrap(), Notice::Lost, "{texts:?}");
        }
    }

    #[tokio::test]
    async fn silence_is_a_loss() {
        let (notices, mut listener) = notices();
        notices.received(&message("7 "));
        notices.check_silence(Instant::now());
        assert!(listener.try_recv().is_err());
        notices.check_silence(Instant::now() + Duration::from_secs(1));
        assert_eq!(listener.try_recv().unwrap(), Notice::Lost);
    }
}
