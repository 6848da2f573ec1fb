-- The relational schema of Abunfi on SQLite 3.45 and newer: the one of PostgreSQL, in SQLite's words.
--
-- Ids are blobs of 16 bytes (UUIDv7 made by the program, so they sort by time), times are integer
-- microseconds since 1970, amounts, shares and prices integer micro-units (scale 6), below 10^18.
-- Integers that overflow become floats in SQLite: no check and no sum here may get that far.
-- Tables without large rows are clustered by their primary key (WITHOUT ROWID).

CREATE TABLE assets (
    asset       TEXT    NOT NULL,
    share_price INTEGER NOT NULL,
    version     INTEGER NOT NULL DEFAULT 1,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    CONSTRAINT assets_pkey PRIMARY KEY (asset),
    CONSTRAINT assets_code_check CHECK (length(asset) BETWEEN 1 AND 12 AND asset NOT GLOB '*[^A-Z0-9]*'),
    CONSTRAINT assets_share_price_check CHECK (share_price > 0 AND share_price < 1000000000000000000)
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    user_id         BLOB    NOT NULL,
    email           TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    wallet_address  TEXT,
    phone           TEXT,
    social_provider TEXT,
    social_id       TEXT,
    status          TEXT    NOT NULL DEFAULT 'active',
    kyc_status      TEXT    NOT NULL DEFAULT 'pending',
    kyc_data        TEXT    NOT NULL DEFAULT '{}',
    referral_code   TEXT    NOT NULL,
    referred_by     BLOB,
    version         INTEGER NOT NULL DEFAULT 1,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    CONSTRAINT users_pkey PRIMARY KEY (user_id),
    CONSTRAINT users_id_check CHECK (length(user_id) = 16),
    CONSTRAINT users_status_check CHECK (status IN ('active', 'suspended', 'closed')),
    CONSTRAINT users_kyc_status_check CHECK (kyc_status IN ('pending', 'verified', 'rejected')),
    CONSTRAINT users_social_check CHECK ((social_provider IS NULL) = (social_id IS NULL)),
    CONSTRAINT users_referred_by_fkey FOREIGN KEY (referred_by) REFERENCES users (user_id)
) STRICT;
CREATE INDEX users_created_at_idx ON users (created_at DESC, user_id DESC);
CREATE INDEX users_referred_by_idx ON users (referred_by, created_at DESC, user_id DESC) WHERE referred_by IS NOT NULL;

-- The one place where identities are unique. value is the form in which they are compared.
CREATE TABLE user_identities (
    kind    TEXT NOT NULL,
    value   TEXT NOT NULL,
    user_id BLOB NOT NULL,
    CONSTRAINT user_identities_pkey PRIMARY KEY (kind, value),
    CONSTRAINT user_identities_kind_check
        CHECK (kind IN ('email', 'wallet_address', 'phone', 'social', 'referral_code')),
    CONSTRAINT user_identities_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX user_identities_user_kind_key ON user_identities (user_id, kind);

-- Balances. The books balance to zero by construction: what the user has equals what came in less what
-- went out, in every row; a system account's balance is a sum over these columns, and no system row exists.
-- version is the seq of the newest audit row of the account's chain, chain_hash its hash.
CREATE TABLE accounts (
    user_id            BLOB    NOT NULL,
    asset              TEXT    NOT NULL,
    available          INTEGER NOT NULL DEFAULT 0,
    locked             INTEGER NOT NULL DEFAULT 0,
    shares             INTEGER NOT NULL DEFAULT 0,
    locked_shares      INTEGER NOT NULL DEFAULT 0,
    deposited          INTEGER NOT NULL DEFAULT 0,
    withdrawn          INTEGER NOT NULL DEFAULT 0,
    total_yield_earned INTEGER NOT NULL DEFAULT 0,
    bonuses            INTEGER NOT NULL DEFAULT 0,
    fees               INTEGER NOT NULL DEFAULT 0,
    last_yield_at      INTEGER,
    -- Pending transactions of any type: what must end before the user can be closed.
    pending            INTEGER NOT NULL DEFAULT 0,
    version            INTEGER NOT NULL DEFAULT 0,
    chain_hash         BLOB    NOT NULL DEFAULT (zeroblob(32)),
    -- The time of the newest audit row: the next one is not earlier.
    chain_at           INTEGER NOT NULL DEFAULT 0,
    -- The owner's status, as far as posting needs it: changed with users.status, user first.
    owner_status       TEXT    NOT NULL DEFAULT 'active',
    CONSTRAINT accounts_pkey PRIMARY KEY (user_id, asset),
    CONSTRAINT accounts_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id),
    CONSTRAINT accounts_asset_fkey FOREIGN KEY (asset) REFERENCES assets (asset),
    CONSTRAINT accounts_not_negative_check CHECK (
        available >= 0 AND locked >= 0 AND shares >= 0 AND locked_shares >= 0 AND deposited >= 0
        AND withdrawn >= 0 AND total_yield_earned >= 0 AND bonuses >= 0 AND fees >= 0 AND pending >= 0),
    -- Each part on its own first: so bounded, their sum cannot overflow.
    CONSTRAINT accounts_bound_check CHECK (
        available < 1000000000000000000 AND locked < 1000000000000000000
        AND shares < 1000000000000000000 AND locked_shares < 1000000000000000000
        AND available + locked < 1000000000000000000 AND shares + locked_shares < 1000000000000000000),
    -- Whole units and rests are summed apart, so that no sum comes near 64 bits: all that the rests add up
    -- to must be made good by the whole units, exactly.
    CONSTRAINT accounts_books_check CHECK (
        (deposited % 1000000 + total_yield_earned % 1000000 + bonuses % 1000000
            - withdrawn % 1000000 - fees % 1000000 - available % 1000000 - locked % 1000000) % 1000000 = 0
        AND (deposited % 1000000 + total_yield_earned % 1000000 + bonuses % 1000000
            - withdrawn % 1000000 - fees % 1000000 - available % 1000000 - locked % 1000000) / 1000000
            = available / 1000000 + locked / 1000000 + withdrawn / 1000000 + fees / 1000000
            - deposited / 1000000 - total_yield_earned / 1000000 - bonuses / 1000000)
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_asset_idx ON accounts (asset);

CREATE TABLE transactions (
    user_id          BLOB    NOT NULL,
    transaction_id   BLOB    NOT NULL,
    type             TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    asset            TEXT    NOT NULL,
    amount           INTEGER NOT NULL,
    shares           INTEGER NOT NULL DEFAULT 0,
    expires_at       INTEGER,
    submitted_at     INTEGER,
    client_reference TEXT,
    tx_hash          TEXT,
    block_number     INTEGER,
    gas_used         INTEGER,
    gas_fee          TEXT,
    confirmations    INTEGER NOT NULL DEFAULT 0,
    exchange_rate    TEXT,
    amount_vnd       INTEGER,
    metadata         TEXT,
    error_message    TEXT,
    created_at       INTEGER NOT NULL,
    confirmed_at     INTEGER,
    CONSTRAINT transactions_pkey PRIMARY KEY (user_id, transaction_id),
    CONSTRAINT transactions_account_fkey FOREIGN KEY (user_id, asset) REFERENCES accounts (user_id, asset),
    CONSTRAINT transactions_type_check CHECK (type IN ('deposit', 'withdraw', 'yield_harvest', 'referral_bonus')),
    CONSTRAINT transactions_status_check CHECK (status IN ('pending', 'confirmed', 'failed', 'cancelled')),
    CONSTRAINT transactions_amount_check CHECK (amount > 0 AND amount < 1000000000000000000),
    CONSTRAINT transactions_shares_check CHECK (shares >= 0 AND shares < 1000000000000000000),
    CONSTRAINT transactions_confirmed_check CHECK ((status = 'confirmed') = (confirmed_at IS NOT NULL))
) STRICT;
CREATE INDEX transactions_created_idx ON transactions (user_id, created_at DESC, transaction_id DESC);
CREATE UNIQUE INDEX transactions_client_reference_key ON transactions (user_id, client_reference)
    WHERE client_reference IS NOT NULL;
CREATE UNIQUE INDEX transactions_tx_hash_key ON transactions (user_id, type, tx_hash) WHERE tx_hash IS NOT NULL;
CREATE INDEX transactions_expiry_idx ON transactions (expires_at)
    WHERE status = 'pending' AND expires_at IS NOT NULL AND submitted_at IS NULL;

-- Two legs for each confirmed transaction, which sum to zero. Never changed.
CREATE TABLE entries (
    user_id        BLOB    NOT NULL,
    transaction_id BLOB    NOT NULL,
    account        TEXT    NOT NULL,
    asset          TEXT    NOT NULL,
    amount         INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    CONSTRAINT entries_pkey PRIMARY KEY (user_id, transaction_id, account),
    CONSTRAINT entries_transaction_fkey FOREIGN KEY (user_id, transaction_id)
        REFERENCES transactions (user_id, transaction_id),
    CONSTRAINT entries_account_check CHECK (account IN ('user', 'custody', 'yield', 'promotions', 'fees'))
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_yield_idx ON entries (user_id, asset, at) WHERE account = 'yield';

-- The trail. user_id is the nil UUID for chains of the platform. There is no foreign key to users on
-- purpose: nothing that happens to a user may touch the trail. With one writer the rowid is the order of
-- commits, which is what checkpoints go by.
CREATE TABLE audit (
    user_id             BLOB    NOT NULL,
    chain               TEXT    NOT NULL,
    seq                 INTEGER NOT NULL,
    transaction_id      BLOB,
    action              TEXT    NOT NULL,
    previous_status     TEXT,
    new_status          TEXT,
    amount              INTEGER,
    shares              INTEGER,
    available_after     INTEGER,
    locked_after        INTEGER,
    shares_after        INTEGER,
    locked_shares_after INTEGER,
    actor_kind          TEXT    NOT NULL,
    actor_id            TEXT    NOT NULL,
    actor_session_id    BLOB,
    request_id          TEXT    NOT NULL,
    at                  INTEGER NOT NULL,
    reason_commitment   BLOB,
    data_commitment     BLOB,
    previous_hash       BLOB    NOT NULL,
    hash                BLOB    NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (user_id, chain, seq)
) STRICT;
CREATE INDEX audit_transaction_idx ON audit (user_id, transaction_id, seq) WHERE transaction_id IS NOT NULL;
CREATE INDEX audit_at_idx ON audit (user_id, at DESC, chain DESC, seq DESC);

-- Heads of chains that have no account row.
CREATE TABLE chain_heads (
    user_id BLOB    NOT NULL,
    chain   TEXT    NOT NULL,
    seq     INTEGER NOT NULL,
    hash    BLOB    NOT NULL,
    at      INTEGER NOT NULL,
    CONSTRAINT chain_heads_pkey PRIMARY KEY (user_id, chain)
) STRICT, WITHOUT ROWID;

-- Personal content that the trail commits to; may be erased.
CREATE TABLE audit_private (
    user_id BLOB    NOT NULL,
    chain   TEXT    NOT NULL,
    seq     INTEGER NOT NULL,
    field   TEXT    NOT NULL,
    salt    BLOB    NOT NULL,
    value   TEXT    NOT NULL,
    CONSTRAINT audit_private_pkey PRIMARY KEY (user_id, chain, seq, field)
) STRICT;

CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
-- INSERT OR REPLACE deletes what is in its way (by key or by rowid) without asking the triggers for
-- deletion, unless a connection turns recursive_triggers on.
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit
    WHEN EXISTS (SELECT 1 FROM audit
                 WHERE user_id = new.user_id AND chain = new.chain AND seq = new.seq)
        OR EXISTS (SELECT 1 FROM audit WHERE rowid = new.rowid)
    BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END;
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries is append-only'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries is append-only'); END;
CREATE TRIGGER entries_no_replace BEFORE INSERT ON entries
    WHEN EXISTS (SELECT 1 FROM entries WHERE user_id = new.user_id
                 AND transaction_id = new.transaction_id AND account = new.account)
    BEGIN SELECT RAISE(ABORT, 'entries is append-only'); END;

-- Answers to requests on one user. Written with the effect, in one transaction.
CREATE TABLE idempotency_keys (
    user_id     BLOB    NOT NULL,
    principal   TEXT    NOT NULL,
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    answer      TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, principal, scope, key)
) STRICT;
CREATE INDEX idempotency_keys_created_idx ON idempotency_keys (created_at);

-- Requests over many users. answer stays null for a batch that is not atomic: its items have their own.
CREATE TABLE batch_keys (
    principal   TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    request_id  TEXT    NOT NULL,
    answer      TEXT,
    created_at  INTEGER NOT NULL,
    CONSTRAINT batch_keys_pkey PRIMARY KEY (principal, key)
) STRICT;
CREATE INDEX batch_keys_created_idx ON batch_keys (created_at);

-- Heads of user-owned documents: they decide version and content; see the documents domain.
CREATE TABLE document_heads (
    user_id         BLOB    NOT NULL,
    kind            TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    hash            BLOB    NOT NULL,
    deleted         INTEGER NOT NULL DEFAULT 0,
    applied_version INTEGER NOT NULL DEFAULT -1,
    image           TEXT,
    updated_at      INTEGER NOT NULL,
    applied_at      INTEGER,
    lease           BLOB,
    leased_until    INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_at         INTEGER,
    foreign_content INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT document_heads_pkey PRIMARY KEY (user_id, kind),
    CONSTRAINT document_heads_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id),
    CONSTRAINT document_heads_kind_check CHECK (kind IN ('preferences', 'metadata')),
    CONSTRAINT document_heads_deleted_check CHECK (deleted IN (0, 1)),
    CONSTRAINT document_heads_foreign_check CHECK (foreign_content IN (0, 1))
) STRICT;
-- next_at is null exactly when nothing is to be done.
CREATE INDEX document_heads_due_idx ON document_heads (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX document_heads_foreign_idx ON document_heads (user_id) WHERE foreign_content = 1;
CREATE INDEX document_heads_images_idx ON document_heads (applied_at) WHERE image IS NOT NULL AND applied_at IS NOT NULL;

-- Raised by hand after a restore, so that new versions are newer than all that the document store has seen.
CREATE TABLE document_epoch (
    is_only INTEGER NOT NULL DEFAULT 1,
    epoch   INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT document_epoch_pkey PRIMARY KEY (is_only),
    CONSTRAINT document_epoch_only_check CHECK (is_only = 1)
) STRICT;
INSERT INTO document_epoch DEFAULT VALUES;

-- Content, when this database is the document store. canonical is what is hashed and served, null in a
-- tombstone; SQLite's JSON functions query it as it is.
CREATE TABLE documents (
    user_id   BLOB    NOT NULL,
    kind      TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    canonical TEXT,
    CONSTRAINT documents_pkey PRIMARY KEY (user_id, kind),
    CONSTRAINT documents_head_fkey FOREIGN KEY (user_id, kind) REFERENCES document_heads (user_id, kind)
) STRICT;

CREATE TABLE sessions (
    user_id         BLOB    NOT NULL,
    session_id      BLOB    NOT NULL,
    token_hash      BLOB    NOT NULL,
    device          TEXT,
    ip              TEXT,
    created_at      INTEGER NOT NULL,
    last_seen_at    INTEGER NOT NULL,
    idle_expires_at INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    CONSTRAINT sessions_pkey PRIMARY KEY (user_id, session_id),
    CONSTRAINT sessions_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX sessions_token_hash_key ON sessions (token_hash);
CREATE INDEX sessions_expiry_idx ON sessions (idle_expires_at);

-- What was valid and must be refused, whatever a cache says. Every instance reads the recent ones.
CREATE TABLE revocations (
    kind TEXT    NOT NULL,
    id   BLOB    NOT NULL,
    at   INTEGER NOT NULL,
    CONSTRAINT revocations_pkey PRIMARY KEY (kind, id, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX revocations_at_idx ON revocations (at DESC);

-- scopes is a JSON array of words.
CREATE TABLE service_keys (
    key_id     BLOB    NOT NULL,
    owner      TEXT    NOT NULL,
    scopes     TEXT    NOT NULL,
    token_hash BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CONSTRAINT service_keys_pkey PRIMARY KEY (key_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX service_keys_token_hash_key ON service_keys (token_hash);

-- Effects that commits promised. Rows are deleted when carried out.
CREATE TABLE outbox (
    id           BLOB    NOT NULL,
    effect       TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    lease        BLOB,
    leased_until INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
) STRICT;
CREATE INDEX outbox_created_idx ON outbox (created_at);
