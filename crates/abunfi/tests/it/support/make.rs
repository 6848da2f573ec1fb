//! Users, commands and times, as short as a test wants to name them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use abunfi::clock::Timestamp;
use abunfi::context::{Actor, Context, Principal};
use abunfi::documents::{Expected, NewDocument};
use abunfi::ids::{TransactionId, UserId, random_bytes};
use abunfi::ledger::{
    Action, Asset, Command, Details, Error, Idempotency, Outcome, Posted, Refusal, Settlement,
    Transaction, TransactionStatus, TransactionType,
};
use abunfi::money::Amount;
use abunfi::users::{
    Email, FirstDocuments, IdentityKind, IdentityQuery, Name, NewUser, ReferralCode, UserRecord,
};
use serde_json::{Value, json};

use super::Relational;

/// 2026-03-01T00:00:00Z
const START_MICROS: i64 = 1_772_323_200_000_000;

static TICKS: AtomicI64 = AtomicI64::new(0);

/// So many seconds after the time at which tests begin.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(START_MICROS + seconds * 1_000_000)
}

/// A second later than the one before.
pub(crate) fn next_time() -> Timestamp {
    at(TICKS.fetch_add(1, Ordering::SeqCst))
}

pub(crate) fn amount(text: &str) -> Amount {
    Amount::parse(text).expect("an amount")
}

pub(crate) fn units(count: u64) -> Amount {
    amount(&count.to_string())
}

pub(crate) fn vnd() -> Asset {
    asset("VND")
}

pub(crate) fn asset(code: &str) -> Asset {
    Asset::parse(code).expect("an asset")
}

pub(crate) fn context() -> Context {
    Context::new(
        Actor::system("conformance"),
        Principal::key_owner("conformance"),
        "request-of-the-test",
    )
}

/// A user of that name, whose e-mail is `{name}@example.com`.
pub(crate) fn new_user(name: &str) -> NewUser {
    let now = next_time();
    NewUser {
        id: UserId::new(now),
        email: Email::parse(&format!("{name}@example.com")).expect("an e-mail"),
        name: Name::parse(name).expect("a name"),
        wallet_address: None,
        phone: None,
        social: None,
        referral_codes: (0..3)
            .map(|_| ReferralCode::from_random(random_bytes()))
            .collect(),
        referred_by: None,
        default_asset: vnd(),
        documents: FirstDocuments {
            preferences: document(&json!({"language": "vi"})),
            metadata: document(&json!({})),
        },
        at: now,
    }
}

pub(crate) fn document(value: &Value) -> NewDocument {
    NewDocument::of(value)
}

pub(crate) fn query(kind: IdentityKind, text: &str) -> IdentityQuery {
    IdentityQuery {
        kind,
        key: kind.key(text).expect("an identity"),
    }
}

/// Who asks for what happens at `now`: each command is a request of its own.
fn context_at(now: Timestamp) -> Arc<Context> {
    Arc::new(Context::new(
        Actor::system("conformance"),
        Principal::key_owner("conformance"),
        format!("request-{}", now.micros()),
    ))
}

/// A posting that is confirmed at once, without a key, at [`next_time`].
pub(crate) fn posting(user: UserId, kind: TransactionType, amount: Amount) -> Command {
    let now = next_time();
    Command {
        user_id: user,
        context: context_at(now),
        idempotency: None,
        at: now,
        action: Action::Post(Box::new(Transaction {
            id: TransactionId::new(now),
            user_id: user,
            kind,
            status: TransactionStatus::Confirmed,
            asset: vnd(),
            amount,
            shares: Amount::ZERO,
            expires_at: None,
            submitted_at: None,
            client_reference: None,
            tx_hash: None,
            block_number: None,
            gas_used: None,
            gas_fee: None,
            confirmations: 0,
            exchange_rate: None,
            amount_vnd: None,
            metadata: json!({}),
            error_message: None,
            created_at: now,
            confirmed_at: Some(now),
        })),
    }
}

pub(crate) fn deposit(user: UserId, count: u64) -> Command {
    posting(user, TransactionType::Deposit, units(count))
}

pub(crate) fn withdraw(user: UserId, count: u64) -> Command {
    posting(user, TransactionType::Withdraw, units(count))
}

pub(crate) fn settle(user: UserId, transaction_id: TransactionId, to: Settlement) -> Command {
    command(
        user,
        Action::Settle {
            transaction_id,
            to,
            details: Box::default(),
            only_unsubmitted: false,
            salt: random_bytes(),
        },
    )
}

pub(crate) fn submit(user: UserId, transaction_id: TransactionId) -> Command {
    command(
        user,
        Action::Submit {
            transaction_id,
            tx_hash: None,
        },
    )
}

fn command(user: UserId, action: Action) -> Command {
    let now = next_time();
    Command {
        user_id: user,
        context: context_at(now),
        idempotency: None,
        at: now,
        action,
    }
}

/// Changes to a command, one word each.
pub(crate) trait Shape: Sized {
    /// Changes the transaction that the command posts.
    fn with(self, change: impl FnOnce(&mut Transaction)) -> Self;
    /// Changes what the settling says.
    fn saying(self, change: impl FnOnce(&mut Details)) -> Self;
    fn unless_submitted(self) -> Self;
    fn at(self, at: Timestamp) -> Self;
    /// An idempotency key in scope `post`, with a fingerprint made of `body`.
    fn key(self, key: &str, body: u8) -> Self;

    fn pending(self) -> Self {
        self.with(|transaction| {
            transaction.status = TransactionStatus::Pending;
            transaction.confirmed_at = None;
        })
    }

    fn shares(self, shares: &str) -> Self {
        let shares = amount(shares);
        self.with(|transaction| transaction.shares = shares)
    }

    fn asset(self, code: &str) -> Self {
        let asset = asset(code);
        self.with(|transaction| transaction.asset = asset)
    }

    fn reference(self, reference: &str) -> Self {
        self.with(|transaction| transaction.client_reference = Some(reference.to_owned()))
    }

    fn tx_hash(self, hash: &str) -> Self {
        self.with(|transaction| transaction.tx_hash = Some(hash.to_owned()))
    }

    fn expires(self, expires_at: Timestamp) -> Self {
        self.with(|transaction| transaction.expires_at = Some(expires_at))
    }
}

impl Shape for Command {
    fn with(mut self, change: impl FnOnce(&mut Transaction)) -> Self {
        let Action::Post(transaction) = &mut self.action else {
            panic!("not a posting: {:?}", self.action);
        };
        change(transaction);
        self
    }

    fn saying(mut self, change: impl FnOnce(&mut Details)) -> Self {
        let Action::Settle { details, .. } = &mut self.action else {
            panic!("not a settlement: {:?}", self.action);
        };
        change(details);
        self
    }

    fn unless_submitted(mut self) -> Self {
        let Action::Settle {
            only_unsubmitted, ..
        } = &mut self.action
        else {
            panic!("not a settlement: {:?}", self.action);
        };
        *only_unsubmitted = true;
        self
    }

    fn at(mut self, at: Timestamp) -> Self {
        self.at = at;
        if let Action::Post(transaction) = &mut self.action {
            transaction.id = TransactionId::new(at);
            transaction.created_at = at;
            transaction.confirmed_at = transaction.confirmed_at.map(|_| at);
        }
        self
    }

    fn key(mut self, key: &str, body: u8) -> Self {
        self.idempotency = Some(idempotency(key, body));
        self
    }
}

pub(crate) fn idempotency(key: &str, body: u8) -> Idempotency {
    Idempotency {
        principal: Principal::key_owner("conformance"),
        scope: "post".into(),
        key: key.into(),
        is_new: false,
        fingerprint: [body; 32],
    }
}

/// The transaction that a command posts.
pub(crate) fn transaction_of(command: &Command) -> &Transaction {
    let Action::Post(transaction) = &command.action else {
        panic!("not a posting: {:?}", command.action);
    };
    transaction
}

impl Relational {
    /// Makes a user with a zero balance in VND.
    pub(crate) async fn user(&self, name: &str) -> UserRecord {
        let user = new_user(name);
        self.users
            .create(&context(), &user)
            .await
            .unwrap_or_else(|error| panic!("creating {name}: {error:?}"))
    }

    /// Makes a user who has that much.
    pub(crate) async fn user_with(&self, name: &str, count: u64) -> UserId {
        let id = self.user(name).await.id;
        self.posted(deposit(id, count)).await;
        id
    }

    /// Makes an asset to be saved.
    pub(crate) async fn asset(&self, code: &str) {
        let price = abunfi::ledger::first_share_price();
        self.ledger
            .put_asset(
                &context(),
                &asset(code),
                price,
                Expected::Anything,
                next_time(),
            )
            .await
            .expect("an asset");
    }

    /// Posts one command.
    pub(crate) async fn post(&self, command: Command) -> Result<Outcome, Error> {
        let mut results = self.ledger.post(&[command]).await?;
        assert_eq!(results.len(), 1, "one command, one result");
        results.pop().expect("one result")
    }

    /// Posts one command, which must be done, and not replayed.
    pub(crate) async fn posted(&self, command: Command) -> Posted {
        let outcome = self.post(command.clone()).await.expect("an answer");
        assert!(!outcome.replayed, "done for the first time: {command:?}");
        outcome
            .answer
            .result
            .unwrap_or_else(|refusal| panic!("refused with {refusal:?}: {command:?}"))
    }

    /// Posts one command, which must be refused.
    pub(crate) async fn refused(&self, command: Command) -> Refusal {
        let outcome = self.post(command.clone()).await.expect("an answer");
        match outcome.answer.result {
            Err(refusal) => refusal,
            Ok(posted) => panic!("done, and not refused: {posted:?}"),
        }
    }

    /// What is available and locked, in VND.
    pub(crate) async fn balance(&self, user: UserId) -> (Amount, Amount) {
        let balances = self.ledger.balances(user).await.expect("an answer");
        let balance = balances
            .expect("the user")
            .into_iter()
            .find(|balance| balance.asset == vnd())
            .expect("a balance in VND");
        (balance.available, balance.locked)
    }
}
