//! What must hold of the books after whatever a test did: asked of the rows themselves, past the adapter,
//! and of every audit chain by its hashes.

use abunfi::audit::{Entry, GENESIS, PLATFORM, USER_CHAIN};
use abunfi::ids::UserId;
use abunfi::ledger::Page;
use abunfi::money::SignedSum;
use abunfi_testkit::books::all_violations;

use super::{Backend, Relational};

impl Relational {
    /// Stops the test unless everything that must hold of the books holds.
    pub(crate) async fn check_books(&self) {
        self.check_rows().await;
        for user in self.all_users().await {
            self.check_account_chains(user).await;
            self.check_chain(user, USER_CHAIN).await;
        }
        self.check_chain(PLATFORM, "system").await;
    }

    /// What somebody with the database's password can do: puts the head of an account's chain where those of other
    /// chains are.
    pub(crate) async fn put_head_beside(&self, user: UserId, asset: &str) {
        let of = self.of_account(user, asset);
        let sql = format!(
            "INSERT INTO chain_heads (user_id, chain, seq, hash, at)
             SELECT user_id, asset, version, chain_hash, chain_at {of}"
        );
        assert_eq!(self.raw.execute(&sql).await.expect("a head"), 1);
    }

    /// The same, and deletes the account.
    pub(crate) async fn take_account_away(&self, user: UserId, asset: &str) {
        self.put_head_beside(user, asset).await;
        let delete = format!("DELETE {}", self.of_account(user, asset));
        let delete = match self.backend {
            Backend::Postgres => {
                let unbind = "ALTER TABLE accounts DISABLE TRIGGER USER";
                self.raw.execute(unbind).await.expect("no trigger");
                delete
            }
            Backend::Sqlite => format!("PRAGMA foreign_keys = OFF; {delete}"),
        };
        assert_eq!(self.raw.execute(&delete).await.expect("no account"), 1);
    }

    fn of_account(&self, user: UserId, asset: &str) -> String {
        let user = match self.backend {
            Backend::Postgres => format!("'{user}'"),
            Backend::Sqlite => format!("x'{}'", user.0.simple()),
        };
        format!("FROM accounts WHERE user_id = {user} AND asset = '{asset}'")
    }

    /// The part of it that asks the rows alone, in one question.
    pub(crate) async fn check_rows(&self) {
        let sql = format!(
            "SELECT what FROM ({}) AS found WHERE violations <> 0",
            all_violations()
        );
        assert_eq!(self.raw.texts(&sql).await, Vec::<String>::new());
        for sheet in self.ledger.trial_balance().await.expect("a trial balance") {
            assert_eq!(sheet.net, SignedSum::ZERO, "{sheet:?}");
            let legs = [sheet.custody, sheet.yield_, sheet.promotions, sheet.fees];
            let sum = legs
                .iter()
                .fold(sheet.users.micros(), |sum, leg| sum + leg.micros());
            assert_eq!(sum, 0, "{sheet:?}");
        }
    }

    /// Every account's chain verifies and ends in the balance that is shown.
    async fn check_account_chains(&self, user: UserId) {
        let balances = self
            .ledger
            .balances(user)
            .await
            .expect("an answer")
            .expect("the user");
        for balance in balances {
            let rows = self.check_chain(user, balance.asset.as_str()).await;
            assert_eq!(
                i64::try_from(rows.len()),
                Ok(balance.version),
                "{balance:?}"
            );
            let Some(after) = rows.last().map(|row| row.after.expect("amounts after")) else {
                continue;
            };
            assert_eq!(
                (
                    after.available,
                    after.locked,
                    after.shares,
                    after.locked_shares
                ),
                (
                    balance.available,
                    balance.locked,
                    balance.shares,
                    balance.locked_shares
                ),
            );
            assert_eq!(
                balance.available.checked_add(balance.locked),
                Some(balance.total),
                "{balance:?}"
            );
        }
    }

    /// The rows of a chain, oldest first, after verifying them.
    pub(crate) async fn check_chain(&self, user: UserId, chain: &str) -> Vec<Entry> {
        // Pages of 7, so that the paging is under test as well.
        let mut rows: Vec<Entry> = Vec::new();
        loop {
            let after = rows.last().map_or(0, |row| row.seq);
            let page = self
                .audit
                .chain(user, chain, after, 7)
                .await
                .expect("a page of the chain");
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= 7, "a page has at most its limit");
            rows.extend(page.into_iter().map(|row| row.entry));
        }
        verify(user, chain, &rows);
        rows
    }

    pub(crate) async fn all_users(&self) -> Vec<UserId> {
        let mut users = Vec::new();
        let mut after = None;
        loop {
            let page = Page { after, limit: 200 };
            let rows = self.users.list(&page).await.expect("a page of users");
            let Some(last) = rows.last() else {
                return users;
            };
            after = Some((last.created_at, last.id));
            users.extend(rows.iter().map(|row| row.id));
        }
    }
}

/// A whole chain: no gap, each row bound to the one before, each hash that of its content.
fn verify(user: UserId, chain: &str, rows: &[Entry]) {
    let (mut seq, mut hash, mut at) = (0, GENESIS, None);
    for row in rows {
        seq += 1;
        assert_eq!(
            (row.user_id, row.chain.as_str(), row.seq),
            (user, chain, seq)
        );
        assert_eq!(
            row.previous_hash, hash,
            "row {seq} of {chain} follows the one before"
        );
        assert_eq!(
            row.hash,
            row.computed_hash(),
            "row {seq} of {chain} has the hash of its content"
        );
        assert!(
            at <= Some(row.at),
            "the time of {chain} runs backwards at row {seq}"
        );
        (hash, at) = (row.hash, Some(row.at));
    }
}
