//! What must hold of the rows of the ledger, whatever happened, as questions in SQL that PostgreSQL and
//! SQLite both answer. Asked after the conformance tests, after random histories, and after every crash.

/// Each counts rows that must not be.
pub const VIOLATIONS: &[(&str, &str)] = &[
    (
        "a transaction whose entries do not sum to zero",
        "SELECT count(*) FROM (SELECT 1 FROM entries GROUP BY user_id, transaction_id
         HAVING sum(amount) <> 0) AS unbalanced",
    ),
    (
        "a confirmed transaction without its two legs",
        "SELECT count(*) FROM transactions AS t WHERE t.status = 'confirmed' AND 2 > (
         SELECT count(*) FROM entries AS e
         WHERE e.user_id = t.user_id AND e.transaction_id = t.transaction_id)",
    ),
    (
        "an entry of a transaction that is not confirmed",
        "SELECT count(*) FROM entries AS e WHERE NOT EXISTS (SELECT 1 FROM transactions AS t
         WHERE t.user_id = e.user_id AND t.transaction_id = e.transaction_id
         AND t.status = 'confirmed' AND t.asset = e.asset)",
    ),
    (
        "a balance that is not the sum of its entries",
        "SELECT count(*) FROM accounts AS a WHERE a.available + a.locked <> (
         SELECT coalesce(sum(e.amount), 0) FROM entries AS e
         WHERE e.user_id = a.user_id AND e.asset = a.asset AND e.account = 'user')",
    ),
    (
        "a total that is not the sum of its transactions",
        "SELECT count(*) FROM accounts AS a WHERE a.fees <> 0
         OR a.deposited <> (SELECT coalesce(sum(amount), 0) FROM transactions AS t WHERE t.status = 'confirmed'
            AND t.user_id = a.user_id AND t.asset = a.asset AND t.type = 'deposit')
         OR a.withdrawn <> (SELECT coalesce(sum(amount), 0) FROM transactions AS t WHERE t.status = 'confirmed'
            AND t.user_id = a.user_id AND t.asset = a.asset AND t.type = 'withdraw')
         OR a.total_yield_earned <> (SELECT coalesce(sum(amount), 0) FROM transactions AS t
            WHERE t.status = 'confirmed'
            AND t.user_id = a.user_id AND t.asset = a.asset AND t.type = 'yield_harvest')
         OR a.bonuses <> (SELECT coalesce(sum(amount), 0) FROM transactions AS t WHERE t.status = 'confirmed'
            AND t.user_id = a.user_id AND t.asset = a.asset AND t.type = 'referral_bonus')",
    ),
    (
        "locked amounts or shares that are not those of the pending withdrawals",
        "SELECT count(*) FROM accounts AS a WHERE
         a.locked <> (SELECT coalesce(sum(amount), 0) FROM transactions AS t WHERE t.status = 'pending'
            AND t.user_id = a.user_id AND t.asset = a.asset AND t.type = 'withdraw')
         OR a.locked_shares <> (SELECT coalesce(sum(shares), 0) FROM transactions AS t
            WHERE t.status = 'pending'
            AND t.user_id = a.user_id AND t.asset = a.asset AND t.type = 'withdraw')
         OR a.pending <> (SELECT count(*) FROM transactions AS t WHERE t.status = 'pending'
            AND t.user_id = a.user_id AND t.asset = a.asset)",
    ),
    (
        "shares that are not those of the transactions",
        "SELECT count(*) FROM accounts AS a WHERE a.shares + a.locked_shares <> (
         SELECT coalesce(sum(CASE WHEN t.type = 'withdraw' THEN -t.shares ELSE t.shares END), 0)
         FROM transactions AS t
         WHERE t.status = 'confirmed' AND t.user_id = a.user_id AND t.asset = a.asset)",
    ),
    (
        "an account whose version is not the number and the newest of its audit rows",
        "SELECT count(*) FROM accounts AS a WHERE
         a.version <> (SELECT count(*) FROM audit AS r WHERE r.user_id = a.user_id AND r.chain = a.asset)
         OR a.version <> (SELECT coalesce(max(seq), 0) FROM audit AS r
            WHERE r.user_id = a.user_id AND r.chain = a.asset)",
    ),
    (
        "an account whose chain head is not the hash of its newest audit row",
        "SELECT count(*) FROM accounts AS a WHERE a.version > 0 AND NOT EXISTS (SELECT 1 FROM audit AS r
         WHERE r.user_id = a.user_id AND r.chain = a.asset AND r.seq = a.version AND r.hash = a.chain_hash)",
    ),
    (
        "an account whose owner has another status than it says",
        "SELECT count(*) FROM accounts AS a JOIN users AS u ON u.user_id = a.user_id
         WHERE u.status <> a.owner_status",
    ),
    (
        "a transaction without an audit row",
        "SELECT count(*) FROM transactions AS t WHERE NOT EXISTS (SELECT 1 FROM audit AS r
         WHERE r.user_id = t.user_id AND r.transaction_id = t.transaction_id)",
    ),
];

/// All of them at once: the rows that must not be, each kind under its name, in two columns.
#[must_use]
pub fn all_violations() -> String {
    VIOLATIONS
        .iter()
        .map(|(what, sql)| format!("SELECT '{what}' AS what, ({sql}) AS violations"))
        .collect::<Vec<_>>()
        .join(" UNION ALL ")
}
