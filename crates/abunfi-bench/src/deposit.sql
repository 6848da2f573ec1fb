-- One deposit, statement by statement, writing the rows that the service writes for one
\set n random(1, :users)
BEGIN;
SELECT a.user_id AS uid, gen_random_uuid() AS tx, a.version + 1 AS seq, encode(a.chain_hash, 'hex') AS prev
    FROM accounts a WHERE a.user_id = (SELECT b.user_id FROM bench_users b WHERE b.n = :n) AND a.asset = 'VND' FOR UPDATE \gset
SELECT answer FROM idempotency_keys WHERE user_id = :uid AND principal = 'key:bench' AND scope = 'post' AND key = :tx;
INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, created_at, confirmed_at)
    VALUES (:uid, :tx, 'deposit', 'confirmed', 'VND', 1000000, now(), now());
INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
    VALUES (:uid, :tx, 'user', 'VND', 1000000, now()), (:uid, :tx, 'custody', 'VND', -1000000, now());
INSERT INTO audit (user_id, chain, seq, transaction_id, action, new_status, amount, shares, available_after, locked_after,
        shares_after, locked_shares_after, actor_kind, actor_id, request_id, at, previous_hash, hash)
    VALUES (:uid, 'VND', :seq, :tx, 'post', 'confirmed', 1000000, 0, 0, 0, 0, 0, 'service_key',
        '00000000-0000-0000-0000-000000000000', :tx, now(), decode(:prev, 'hex'), sha256(:tx::bytea));
UPDATE accounts SET available = available + 1000000, deposited = deposited + 1000000, version = :seq,
        chain_hash = sha256(:tx::bytea), chain_at = now()
    WHERE user_id = :uid AND asset = 'VND';
INSERT INTO idempotency_keys (user_id, principal, scope, key, fingerprint, answer, created_at)
    VALUES (:uid, 'key:bench', 'post', :tx, sha256(:tx::bytea), repeat('0123456789', :answer_length / 10), now());
COMMIT;
