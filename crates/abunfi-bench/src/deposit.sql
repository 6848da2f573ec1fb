-- One deposit, statement by statement, writing the rows that the service writes for one
\set n random(1, :users)
BEGIN;
SELECT a.user_id AS uid, gen_random_uuid() AS tx, a.version + 1 AS seq, encode(a.chain_hash, 'hex') AS prev
    FROM accounts a WHERE a.user_id = (SELECT b.user_id FROM bench_users b WHERE b.n = :n) AND a.asset = 'VND' FOR UPDATE \gset
SELECT fingerprint FROM idempotency_keys WHERE user_id = CAST(:uid AS uuid) AND key_hash = CAST(:tx AS uuid);
INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, created_at, confirmed_at)
    VALUES (CAST(:uid AS uuid), CAST(:tx AS uuid), 'deposit', 'confirmed', 'VND', 1000000, now(), now());
INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
    VALUES (CAST(:uid AS uuid), CAST(:tx AS uuid), 'user', 'VND', 1000000, now()),
           (CAST(:uid AS uuid), CAST(:tx AS uuid), 'custody', 'VND', -1000000, now());
INSERT INTO audit (user_id, chain, seq, transaction_id, action, new_status, amount, shares, available_after, locked_after,
        shares_after, locked_shares_after, actor_kind, actor_id, request_id, at, previous_hash, hash)
    VALUES (CAST(:uid AS uuid), 'VND', CAST(:seq AS bigint), CAST(:tx AS uuid), 'post', 'confirmed', 1000000, 0, 0, 0, 0, 0,
        'service_key', '00000000-0000-0000-0000-000000000000', CAST(:tx AS text), now(),
        decode(CAST(:prev AS text), 'hex'), sha256(convert_to(CAST(:tx AS text), 'UTF8')));
UPDATE accounts SET available = available + 1000000, deposited = deposited + 1000000, version = CAST(:seq AS bigint),
        chain_hash = sha256(convert_to(CAST(:tx AS text), 'UTF8')), chain_at = now()
    WHERE user_id = CAST(:uid AS uuid) AND asset = 'VND';
INSERT INTO idempotency_keys (user_id, key_hash, transaction_id, seq, created_at, fingerprint)
    VALUES (CAST(:uid AS uuid), CAST(:tx AS uuid), CAST(:tx AS uuid), CAST(:seq AS bigint), now(),
        sha256(convert_to(CAST(:tx AS text), 'UTF8')));
COMMIT;
