//! `pending → submitted? → confirmed | failed | cancelled`: every state by every action.

use abunfi::ids::{TransactionId, UserId};
use abunfi::ledger::{
    Command, Posted, Refusal, Settlement, Stage, TransactionStatus, TransactionType,
};
use abunfi::money::Amount;

use crate::support::make::{
    Shape as _, amount, at, deposit, posting, settle, submit, units, withdraw,
};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    every_state_allows_exactly_the_actions_that_it_should,
    a_finished_transaction_is_final,
    settling_a_withdrawal_takes_or_gives_back_the_hold,
    the_other_types_change_nothing_before_they_are_confirmed,
    a_submitted_withdrawal_keeps_when_and_how_it_was_sent,
    of_many_settlements_at_once_one_succeeds,
    a_settlement_says_why_in_the_trail,
);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Submit,
    Settle(Settlement),
    /// As a session or an expiry does it.
    SettleUnlessSubmitted(Settlement),
}

const ACTS: [Act; 7] = [
    Act::Submit,
    Act::Settle(Settlement::Confirm),
    Act::Settle(Settlement::Fail),
    Act::Settle(Settlement::Cancel),
    Act::SettleUnlessSubmitted(Settlement::Confirm),
    Act::SettleUnlessSubmitted(Settlement::Fail),
    Act::SettleUnlessSubmitted(Settlement::Cancel),
];

impl Act {
    fn on(self, user: UserId, id: TransactionId) -> Command {
        match self {
            Self::Submit => submit(user, id),
            Self::Settle(to) => settle(user, id, to),
            Self::SettleUnlessSubmitted(to) => settle(user, id, to).unless_submitted(),
        }
    }

    fn to(self) -> Stage {
        match self {
            Self::Submit => Stage::Submitted,
            Self::Settle(to) | Self::SettleUnlessSubmitted(to) => Stage::of(to.status(), false),
        }
    }

    /// The contract, said once more and otherwise than in the code under test.
    fn is_allowed(self, kind: TransactionType, from: Stage) -> bool {
        match from {
            Stage::Pending => self != Self::Submit || kind == TransactionType::Withdraw,
            Stage::Submitted => matches!(self, Self::Settle(_)),
            Stage::Confirmed | Stage::Failed | Stage::Cancelled => false,
        }
    }
}

/// A new transaction of that kind, brought to that stage. The user has 100 before.
async fn bring_to(
    stores: &Relational,
    user: UserId,
    kind: TransactionType,
    stage: Stage,
) -> TransactionId {
    let new = stores.posted(posting(user, kind, units(1)).pending()).await;
    let id = new.transaction.id;
    let act = match stage {
        Stage::Pending => return id,
        Stage::Submitted => Act::Submit,
        Stage::Confirmed => Act::Settle(Settlement::Confirm),
        Stage::Failed => Act::Settle(Settlement::Fail),
        Stage::Cancelled => Act::Settle(Settlement::Cancel),
    };
    let posted = stores.posted(act.on(user, id)).await;
    assert_eq!(stage_of(&posted), stage);
    id
}

fn stage_of(posted: &Posted) -> Stage {
    Stage::of(
        posted.transaction.status,
        posted.transaction.submitted_at.is_some(),
    )
}

async fn every_state_allows_exactly_the_actions_that_it_should(stores: &Relational) {
    let user = stores.user_with("An", 100).await;
    let mut tried = 0;
    for kind in TransactionType::ALL {
        for stage in Stage::ALL {
            if *stage == Stage::Submitted && *kind != TransactionType::Withdraw {
                continue; // No such state.
            }
            for act in ACTS {
                let id = bring_to(stores, user, *kind, *stage).await;
                let outcome = stores.post(act.on(user, id)).await.unwrap();
                let stands = stores.ledger.transaction(user, id).await.unwrap().unwrap();
                if act.is_allowed(*kind, *stage) {
                    let posted = outcome.answer.result.unwrap();
                    assert_eq!(stage_of(&posted), act.to(), "{kind} {stage} {act:?}");
                    assert_eq!(stands, posted.transaction);
                } else {
                    assert_eq!(
                        outcome.answer.result,
                        Err(Refusal::InvalidTransition {
                            from: *stage,
                            to: act.to()
                        }),
                        "{kind} {stage} {act:?}"
                    );
                    assert_eq!(
                        Stage::of(stands.status, stands.submitted_at.is_some()),
                        *stage
                    );
                }
                tried += 1;
            }
        }
    }
    assert_eq!(tried, (4 * 4 + 1) * ACTS.len());
    stores.check_books().await;
}

async fn a_finished_transaction_is_final(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    for to in [Settlement::Confirm, Settlement::Fail, Settlement::Cancel] {
        let id = bring_to(
            stores,
            user,
            TransactionType::Withdraw,
            Stage::of(to.status(), false),
        )
        .await;
        let finished = stores.ledger.transaction(user, id).await.unwrap().unwrap();
        let before = stores.balance(user).await;
        for act in ACTS {
            stores.refused(act.on(user, id)).await;
        }
        // Nor by what rides along.
        let late = settle(user, id, to).saying(|details| {
            details.tx_hash = Some("0xlate".to_owned());
            details.error_message = Some("late".to_owned());
        });
        stores.refused(late).await;
        assert_eq!(
            stores.ledger.transaction(user, id).await.unwrap(),
            Some(finished)
        );
        assert_eq!(stores.balance(user).await, before);
    }
    stores.check_books().await;
}

async fn settling_a_withdrawal_takes_or_gives_back_the_hold(stores: &Relational) {
    for submitted in [false, true] {
        for (to, expected) in [
            (Settlement::Confirm, (units(6), Amount::ZERO)),
            (Settlement::Fail, (units(10), Amount::ZERO)),
            (Settlement::Cancel, (units(10), Amount::ZERO)),
        ] {
            let user = stores
                .user_with(&format!("u-{submitted}-{}", to.verb()), 10)
                .await;
            let held = stores.posted(withdraw(user, 4).pending()).await;
            assert_eq!(
                (held.balance.available, held.balance.locked),
                (units(6), units(4))
            );
            assert_eq!(held.balance.total, units(10));
            if submitted {
                let sent = stores.posted(submit(user, held.transaction.id)).await;
                assert_eq!(
                    (sent.balance.available, sent.balance.locked),
                    (units(6), units(4))
                );
            }
            let settled = stores.posted(settle(user, held.transaction.id, to)).await;
            assert_eq!(
                (settled.balance.available, settled.balance.locked),
                expected
            );
            assert_eq!(stores.balance(user).await, expected);
            let changes = if submitted { 4 } else { 3 };
            assert_eq!(
                settled.balance.version, changes,
                "each step is a change of the account"
            );
        }
    }
    stores.check_books().await;
}

async fn the_other_types_change_nothing_before_they_are_confirmed(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    for kind in [
        TransactionType::Deposit,
        TransactionType::YieldHarvest,
        TransactionType::ReferralBonus,
    ] {
        let before = stores.balance(user).await;
        for to in [Settlement::Fail, Settlement::Cancel] {
            let id = stores
                .posted(posting(user, kind, units(3)).pending())
                .await
                .transaction
                .id;
            assert_eq!(stores.balance(user).await, before);
            stores.posted(settle(user, id, to)).await;
            assert_eq!(stores.balance(user).await, before);
        }
        let id = stores
            .posted(posting(user, kind, units(3)).pending())
            .await
            .transaction
            .id;
        let confirmed = stores.posted(settle(user, id, Settlement::Confirm)).await;
        assert_eq!(
            confirmed.balance.available,
            before.0.checked_add(units(3)).unwrap()
        );
        assert!(confirmed.transaction.confirmed_at.is_some());
    }
    stores.check_books().await;
}

async fn a_submitted_withdrawal_keeps_when_and_how_it_was_sent(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let id = stores
        .posted(withdraw(user, 1).pending())
        .await
        .transaction
        .id;
    let mut send = submit(user, id);
    if let abunfi::ledger::Action::Submit { tx_hash, .. } = &mut send.action {
        *tx_hash = Some("0xsent".to_owned());
    }
    let sent_at = send.at;
    let sent = stores.posted(send).await.transaction;
    assert_eq!(sent.status, TransactionStatus::Pending);
    assert_eq!(
        (sent.submitted_at, sent.tx_hash.as_deref()),
        (Some(sent_at), Some("0xsent"))
    );
    let confirmed = stores
        .posted(settle(user, id, Settlement::Confirm))
        .await
        .transaction;
    assert_eq!(confirmed.submitted_at, Some(sent_at));
    assert_eq!(confirmed.tx_hash.as_deref(), Some("0xsent"));
    stores.check_books().await;
}

async fn of_many_settlements_at_once_one_succeeds(stores: &Relational) {
    for round in 0..5 {
        let user = stores.user_with(&format!("An-{round}"), 10).await;
        let id = stores
            .posted(withdraw(user, 10).pending())
            .await
            .transaction
            .id;
        let results = at_once(12, |index| {
            let to = [Settlement::Confirm, Settlement::Fail, Settlement::Cancel][index % 3];
            let stores = stores.clone();
            async move {
                stores
                    .post(settle(user, id, to))
                    .await
                    .unwrap()
                    .answer
                    .result
            }
        })
        .await;
        let done: Vec<_> = results.iter().flatten().collect();
        assert_eq!(done.len(), 1, "{results:?}");
        let status = done[0].transaction.status;
        for refused in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(
                matches!(refused, Refusal::InvalidTransition { from, .. } if *from == Stage::of(status, false)),
                "{refused:?}"
            );
        }
        let left = if status == TransactionStatus::Confirmed {
            Amount::ZERO
        } else {
            units(10)
        };
        assert_eq!(stores.balance(user).await, (left, Amount::ZERO));
    }
    stores.check_books().await;
}

async fn a_settlement_says_why_in_the_trail(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let id = stores
        .posted(
            withdraw(user, 2)
                .shares("0")
                .expires(at(1_000_000))
                .pending(),
        )
        .await
        .transaction
        .id;
    stores.posted(submit(user, id)).await;
    let fail = settle(user, id, Settlement::Fail).saying(|details| {
        details.reason = Some("the bank said no".to_owned());
        details.error_message = Some("bank code 17".to_owned());
    });
    let failed = stores.posted(fail).await.transaction;
    assert_eq!(failed.error_message.as_deref(), Some("bank code 17"));

    let page = abunfi::ledger::Page {
        after: None,
        limit: 10,
    };
    let rows = stores
        .ledger
        .transaction_history(user, id, &page)
        .await
        .unwrap();
    let said: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.entry.action.as_ref(),
                row.entry.previous_status.as_deref(),
                row.entry.new_status.as_deref(),
                row.reason.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            (
                "fail",
                Some("pending"),
                Some("failed"),
                Some("the bank said no")
            ),
            ("submit", Some("pending"), Some("pending"), None),
            ("post_withdraw", None, Some("pending"), None),
        ]
    );
    assert!(rows.iter().all(|row| row.entry.amount == Some(amount("2"))));
    assert!(rows.iter().all(|row| row.entry.transaction_id == Some(id)));
    let after = rows[0].entry.after.unwrap();
    assert_eq!((after.available, after.locked), (units(10), Amount::ZERO));

    // The error message is the transaction's; the reason is in no column of the trail.
    let leaks = "SELECT count(*) FROM audit WHERE action LIKE '%bank%' OR request_id LIKE '%bank%'";
    assert_eq!(stores.raw.number(leaks).await, 0);

    let second_page = abunfi::ledger::Page {
        after: Some(rows[1].entry.seq),
        limit: 10,
    };
    let rest = stores
        .ledger
        .transaction_history(user, id, &second_page)
        .await
        .unwrap();
    assert_eq!(rest, rows[2..]);
    stores.posted(deposit(user, 1)).await;
    let still = stores
        .ledger
        .transaction_history(user, id, &page)
        .await
        .unwrap();
    assert_eq!(still, rows, "another transaction is not in it");
}
