//! Many at once over few accounts: no lost update, no overdraft, no lock left behind, no hang.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{
    AtomicBatch, Command, Posted, Refusal, Settlement, TransactionStatus, TransactionType,
};
use abunfi::money::Amount;

use crate::support::make::{
    Shape as _, amount, deposit, posting, settle, submit, units, vnd, withdraw,
};
use crate::support::random::Random;
use crate::support::{Relational, at_once, on_every_backend};
use tokio_util::sync::CancellationToken;

on_every_backend!(
    of_64_withdrawals_at_once_exactly_40_succeed,
    of_64_holds_at_once_exactly_40_succeed,
    deposits_at_once_are_all_counted,
    many_first_postings_in_an_asset_open_one_account,
    a_client_reference_on_two_assets_at_once_is_used_once,
    a_tx_hash_on_two_assets_at_once_is_used_once,
    a_random_mix_of_postings_at_once_keeps_the_books,
    callers_who_go_away_leave_nothing_locked,
    readers_see_whole_postings_only,
);

async fn result_of(stores: &Relational, command: Command) -> Result<Posted, Refusal> {
    stores.post(command).await.expect("an answer").answer.result
}

async fn of_64_withdrawals_at_once_exactly_40_succeed(stores: &Relational) {
    let user = stores.user_with("An", 40).await;
    let results = at_once(64, |_index| {
        let stores = stores.clone();
        async move { result_of(&stores, withdraw(user, 1)).await }
    })
    .await;
    let refusal = Refusal::InsufficientFunds {
        available: Amount::ZERO,
    };
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40);
    assert_eq!(
        results
            .iter()
            .filter(|result| result.as_ref().err() == Some(&refusal))
            .count(),
        24
    );
    assert_eq!(stores.balance(user).await, (Amount::ZERO, Amount::ZERO));
    // Each saw the account as the one before it left it.
    let mut left: Vec<_> = results
        .iter()
        .flatten()
        .map(|posted| posted.balance.available)
        .collect();
    left.sort();
    assert_eq!(left, (0..40).map(units).collect::<Vec<_>>());
    stores.check_books().await;
}

async fn of_64_holds_at_once_exactly_40_succeed(stores: &Relational) {
    let user = stores.user_with("An", 40).await;
    let results = at_once(64, |_index| {
        let stores = stores.clone();
        async move { result_of(&stores, withdraw(user, 1).pending()).await }
    })
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40);
    assert_eq!(stores.balance(user).await, (Amount::ZERO, units(40)));
    stores.check_books().await;
}

async fn deposits_at_once_are_all_counted(stores: &Relational) {
    let user = stores.user("An").await.id;
    let results = at_once(48, |_index| {
        let stores = stores.clone();
        let command = posting(user, TransactionType::Deposit, amount("0.000001"));
        async move { result_of(&stores, command).await }
    })
    .await;
    let versions: BTreeSet<_> = results
        .into_iter()
        .map(|result| result.unwrap().balance.version)
        .collect();
    assert_eq!(versions, (1..=48).collect());
    assert_eq!(stores.balance(user).await.0, amount("0.000048"));
    stores.check_books().await;
}

async fn many_first_postings_in_an_asset_open_one_account(stores: &Relational) {
    stores.asset("USDT").await;
    let user = stores.user("An").await.id;
    let results = at_once(16, |_index| {
        let stores = stores.clone();
        async move { result_of(&stores, deposit(user, 1).asset("USDT")).await }
    })
    .await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let balances = stores.ledger.balances(user).await.unwrap().unwrap();
    assert_eq!(balances.len(), 2);
    assert_eq!(
        (balances[0].available, balances[0].version),
        (units(16), 16)
    );
    stores.check_books().await;
}

/// The accounts' locks do not serialize these: only the unique index does.
async fn race_on_two_assets(
    stores: &Relational,
    shape: impl Fn(Command, &str) -> Command,
    refusal: Refusal,
) {
    stores.asset("USDT").await;
    for round in 0..10 {
        let user = stores.user(&format!("An-{round}")).await.id;
        stores.posted(deposit(user, 1).asset("USDT")).await;
        let results = at_once(8, |index| {
            let command = deposit(user, 1).asset(["VND", "USDT"][index % 2]);
            let (stores, command) = (stores.clone(), shape(command, "the-same"));
            async move { result_of(&stores, command).await }
        })
        .await;
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        let refused = results
            .iter()
            .filter(|result| result.as_ref().err() == Some(&refusal))
            .count();
        assert_eq!(refused, 7, "{results:?}");
    }
    stores.check_books().await;
}

async fn a_client_reference_on_two_assets_at_once_is_used_once(stores: &Relational) {
    race_on_two_assets(
        stores,
        |command, text| command.reference(text),
        Refusal::ClientReferenceTaken,
    )
    .await;
}

async fn a_tx_hash_on_two_assets_at_once_is_used_once(stores: &Relational) {
    race_on_two_assets(
        stores,
        |command, text| command.tx_hash(text),
        Refusal::TxHashTaken,
    )
    .await;
}

/// What one task of the random mix saw.
#[derive(Debug, Default)]
struct Seen {
    /// Each answer that was done, by its transaction.
    done: Vec<Posted>,
    /// Each key's answers.
    keyed: Vec<((UserId, String), Result<TransactionId, Refusal>)>,
}

async fn a_random_mix_of_postings_at_once_keeps_the_books(stores: &Relational) {
    stores.asset("USDT").await;
    let mut users = Vec::new();
    for index in 0..3 {
        users.push(stores.user_with(&format!("user-{index}"), 50).await);
    }
    let users = Arc::new(users);
    let pending: Arc<Mutex<Vec<(UserId, TransactionId)>>> = Arc::default();
    let mut random = Random::seeded();
    let seeds: Vec<u64> = (0..8).map(|_| random.next()).collect();
    let seen = at_once(8, |index| {
        let (stores, users, pending) = (stores.clone(), users.clone(), pending.clone());
        let random = Random::of(seeds[index]);
        async move { post_at_random(&stores, &users, &pending, random).await }
    })
    .await;

    let done: BTreeSet<_> = seen
        .iter()
        .flat_map(|seen| &seen.done)
        .map(|posted| posted.transaction.id)
        .collect();
    assert!(
        done.len() > 100,
        "the run did a minimum of work: {}",
        done.len()
    );
    // The first deposits came before the mix.
    let there = stores.raw.number("SELECT count(*) FROM transactions").await;
    assert_eq!(there, i64::try_from(done.len() + users.len()).unwrap());
    let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, answer) in seen.iter().flat_map(|seen| &seen.keyed) {
        answers.entry(key.clone()).or_default().push(answer.clone());
    }
    assert!(
        answers.values().any(|answers| answers.len() > 1),
        "keys were met again"
    );
    for (key, answers) in answers {
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{key:?}: {answers:?}"
        );
    }
    // Each change of an account was answered once: no version twice, none missing.
    for user in users.iter() {
        for balance in stores.ledger.balances(*user).await.unwrap().unwrap() {
            let versions: Vec<i64> = seen
                .iter()
                .flat_map(|seen| &seen.done)
                .filter(|posted| {
                    posted.transaction.user_id == *user && posted.balance.asset == balance.asset
                })
                .map(|posted| posted.balance.version)
                .collect();
            let distinct: BTreeSet<i64> = versions.iter().copied().collect();
            assert_eq!(
                versions.len(),
                distinct.len(),
                "a version was given out twice"
            );
            let before = i64::from(balance.asset.as_str() == "VND");
            assert_eq!(distinct, (before + 1..=balance.version).collect());
        }
    }
    stores.check_books().await;
}

async fn post_at_random(
    stores: &Relational,
    users: &[UserId],
    pending: &Mutex<Vec<(UserId, TransactionId)>>,
    mut random: Random,
) -> Seen {
    let mut seen = Seen::default();
    for _ in 0..25 {
        let commands: Vec<Command> = (0..=random.below(4))
            .map(|_| random_command(&mut random, users, pending))
            .collect();
        let results = stores.ledger.post(&commands).await.expect("a unit of work");
        for (command, result) in commands.iter().zip(results) {
            let outcome = result.expect("no key is used for two requests");
            if let Some(key) = &command.idempotency {
                let answer = outcome
                    .answer
                    .result
                    .clone()
                    .map(|posted| posted.transaction.id);
                seen.keyed
                    .push(((command.user_id, key.key.to_string()), answer));
            }
            let Ok(posted) = outcome.answer.result else {
                continue;
            };
            if posted.transaction.status == TransactionStatus::Pending {
                pending
                    .lock()
                    .unwrap()
                    .push((command.user_id, posted.transaction.id));
            }
            if !outcome.replayed {
                seen.done.push(posted);
            }
        }
    }
    seen
}

fn random_command(
    random: &mut Random,
    users: &[UserId],
    pending: &Mutex<Vec<(UserId, TransactionId)>>,
) -> Command {
    if random.chance(30) {
        let known = pending.lock().unwrap().clone();
        if !known.is_empty() {
            let (user, id) = *random.pick(&known);
            return match random.below(4) {
                0 => settle(user, id, Settlement::Confirm),
                1 => settle(user, id, Settlement::Fail),
                2 => settle(user, id, Settlement::Cancel).unless_submitted(),
                _ => submit(user, id),
            };
        }
    }
    let user = *random.pick(users);
    if random.chance(10) {
        // Always the same request for the same key.
        let key = format!("key-{}", random.below(5));
        return deposit(user, 3).key(&key, 1);
    }
    let kinds = [
        TransactionType::Deposit,
        TransactionType::Withdraw,
        TransactionType::Withdraw,
        TransactionType::YieldHarvest,
    ];
    let kind = *random.pick(&kinds);
    let micros = i64::try_from(random.below(20_000_000) + 1).unwrap();
    let command = posting(user, kind, Amount::from_micros(micros).unwrap())
        .asset(random.pick::<&str>(&["VND", "VND", "USDT"]));
    if random.chance(40) {
        command.pending()
    } else {
        command
    }
}

async fn callers_who_go_away_leave_nothing_locked(stores: &Relational) {
    let user = stores.user_with("An", 1_000).await;
    let mut random = Random::seeded();
    for _ in 0..4 {
        let callers: Vec<_> = (0..30)
            .map(|_| {
                let stores = stores.clone();
                let caller = tokio::spawn(async move { stores.post(withdraw(user, 1)).await });
                (caller, Duration::from_micros(random.below(20_000)))
            })
            .collect();
        for (caller, patience) in callers {
            tokio::time::sleep(patience / 10).await;
            caller.abort();
        }
    }
    // What was begun ends by itself; the account and the connections are free within moments.
    let free = tokio::time::timeout(Duration::from_secs(40), async {
        at_once(32, |_index| {
            let stores = stores.clone();
            async move { stores.posted(deposit(user, 1)).await }
        })
        .await
    });
    free.await.expect("nothing hangs");
    stores.check_books().await;
}

async fn readers_see_whole_postings_only(stores: &Relational) {
    let mut users = Vec::new();
    for index in 0..4 {
        users.push(stores.user_with(&format!("user-{index}"), 100).await);
    }
    let reading = CancellationToken::new();
    let writer = {
        let (stores, reading) = (stores.clone(), reading.clone());
        tokio::spawn(async move {
            let mut moves = 0;
            // At least so many, so that the reads have had something to miss.
            while moves < 40 || !reading.is_cancelled() {
                // Money changes hands: the sum over all stays 400 in every whole state.
                let batch = AtomicBatch {
                    key: None,
                    request_id: "move".into(),
                    commands: vec![
                        withdraw(users[moves % 4], 1),
                        deposit(users[(moves + 1) % 4], 1),
                    ],
                };
                let moved = stores.ledger.post_atomic(&batch).await.expect("an answer");
                moved.result.expect("there is enough");
                moves += 1;
            }
        })
    };
    let mut reads = 0;
    while reads < 60 || !writer.is_finished() {
        let sheets = stores.ledger.trial_balance().await.unwrap();
        let sheet = sheets.iter().find(|sheet| sheet.asset == vnd()).unwrap();
        assert_eq!(
            sheet.users.micros(),
            400_000_000,
            "a read between the two halves of a move"
        );
        assert_eq!(
            (sheet.custody.micros(), sheet.net.micros()),
            (-400_000_000, 0)
        );
        reads += 1;
        if reads == 60 {
            reading.cancel();
        }
    }
    writer.await.unwrap();
    stores.check_books().await;
}
