-- Answers to requests on one user. Most answers are what two rows that never change again say, the finished
-- transaction and the audit row that finished it: then answer is null and they are named instead, and a
-- replay is put together from them. Without a rowid the key is stored once.
CREATE TABLE narrow_keys (
    user_id        BLOB    NOT NULL,
    principal      TEXT    NOT NULL,
    scope          TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    transaction_id BLOB,
    seq            INTEGER,
    created_at     INTEGER NOT NULL,
    fingerprint    BLOB    NOT NULL,
    answer         TEXT,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, principal, scope, key),
    CONSTRAINT idempotency_keys_answer_check
        CHECK ((answer IS NULL) = (transaction_id IS NOT NULL) AND (answer IS NULL) = (seq IS NOT NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO narrow_keys (user_id, principal, scope, key, created_at, fingerprint, answer)
SELECT user_id, principal, scope, key, created_at, fingerprint, answer FROM idempotency_keys;
DROP TABLE idempotency_keys;
ALTER TABLE narrow_keys RENAME TO idempotency_keys;
CREATE INDEX idempotency_keys_created_idx ON idempotency_keys (created_at);
