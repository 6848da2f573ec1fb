//! What tests start from.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{Answer, TestServer};

/// A text that no other call gives in this process.
pub(crate) fn unique(start: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{start}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Things that are there when a test begins.
pub(crate) trait Seed {
    /// A new user's id.
    async fn user(&self) -> String;
    /// A user with this much available.
    async fn user_with(&self, amount: &str) -> String;
    /// A posting, which must succeed.
    async fn posted(&self, user: &str, body: Value) -> Answer;
    /// A pending withdrawal's id.
    async fn withdrawal(&self, user: &str, amount: &str) -> String;
    /// A new session's token and id.
    async fn session(&self, user: &str) -> (String, String);
    /// What a user has available in the default asset.
    async fn available(&self, user: &str) -> String;
}

impl Seed for TestServer {
    async fn user(&self) -> String {
        let email = format!("{}@example.com", unique("user"));
        let body = json!({"email": email, "name": "An"});
        let made = self.post("users").json(&body).expect(201).await;
        made.text_at("/id")
    }

    async fn user_with(&self, amount: &str) -> String {
        let user = self.user().await;
        let body = json!({"type": "deposit", "amount": amount});
        self.posted(&user, body).await;
        user
    }

    async fn posted(&self, user: &str, body: Value) -> Answer {
        self.post(&format!("users/{user}/transactions"))
            .key(&unique("seed-"))
            .json(&body)
            .expect(201)
            .await
    }

    async fn withdrawal(&self, user: &str, amount: &str) -> String {
        let body = json!({"type": "withdraw", "amount": amount, "status": "pending"});
        self.posted(user, body).await.text_at("/id")
    }

    async fn session(&self, user: &str) -> (String, String) {
        let made = self
            .post(&format!("users/{user}/sessions"))
            .json(&json!({"device": "test"}))
            .expect(201)
            .await;
        (made.text_at("/token"), made.text_at("/session/id"))
    }

    async fn available(&self, user: &str) -> String {
        let balances = self
            .get(&format!("users/{user}/balances"))
            .expect(200)
            .await;
        balances.text_at("/data/0/available")
    }
}
