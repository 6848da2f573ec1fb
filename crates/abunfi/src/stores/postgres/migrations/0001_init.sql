-- The relational schema of Abunfi on PostgreSQL 15 and newer.
--
-- What belongs to a user leads its primary key with user_id, so that the schema can be distributed by it.
-- No sequences: ids are UUIDv7 made by the program. Times are timestamptz, which keeps microseconds.
-- Amounts, shares and prices are bigint micro-units (scale 6), below 10^18.
-- Constraint names are part of the program: adapters map them to domain errors.
-- Names and keys are compared by their bytes (COLLATE "C"), here as in the program: the order of a locale
-- differs between servers, and changes with updates of their operating system, which corrupts indexes.

CREATE TABLE assets (
    asset        text COLLATE "C" NOT NULL,
    share_price  bigint      NOT NULL,
    version      bigint      NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT assets_pkey PRIMARY KEY (asset),
    CONSTRAINT assets_code_check CHECK (asset ~ '^[A-Z0-9]{1,12}$'),
    CONSTRAINT assets_share_price_check CHECK (share_price > 0 AND share_price < 1000000000000000000)
);

CREATE TABLE users (
    user_id         uuid        NOT NULL,
    email           text        NOT NULL,
    name            text        NOT NULL,
    wallet_address  text,
    phone           text,
    social_provider text,
    social_id       text,
    status          text        NOT NULL DEFAULT 'active',
    kyc_status      text        NOT NULL DEFAULT 'pending',
    -- Canonical JSON as text: jsonb would write 1e300 with 300 digits.
    kyc_data        text        NOT NULL DEFAULT '{}',
    referral_code   text        NOT NULL,
    referred_by     uuid,
    version         bigint      NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CONSTRAINT users_pkey PRIMARY KEY (user_id),
    CONSTRAINT users_status_check CHECK (status IN ('active', 'suspended', 'closed')),
    CONSTRAINT users_kyc_status_check CHECK (kyc_status IN ('pending', 'verified', 'rejected')),
    CONSTRAINT users_social_check CHECK ((social_provider IS NULL) = (social_id IS NULL)),
    CONSTRAINT users_referred_by_fkey FOREIGN KEY (referred_by) REFERENCES users (user_id)
);
CREATE INDEX users_created_at_idx ON users (created_at DESC, user_id DESC);
CREATE INDEX users_referred_by_idx ON users (referred_by, created_at DESC, user_id DESC) WHERE referred_by IS NOT NULL;

-- The one place where identities are unique. value is the form in which they are compared.
CREATE TABLE user_identities (
    kind    text COLLATE "C" NOT NULL,
    value   text COLLATE "C" NOT NULL,
    user_id uuid NOT NULL,
    CONSTRAINT user_identities_pkey PRIMARY KEY (kind, value),
    CONSTRAINT user_identities_kind_check
        CHECK (kind IN ('email', 'wallet_address', 'phone', 'social', 'referral_code')),
    CONSTRAINT user_identities_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id)
);
CREATE UNIQUE INDEX user_identities_user_kind_key ON user_identities (user_id, kind);

-- Balances. The books balance to zero by construction: what the user has equals what came in less what
-- went out, in every row; a system account's balance is a sum over these columns, and no system row exists.
-- version is the seq of the newest audit row of the account's chain, chain_hash its hash.
CREATE TABLE accounts (
    user_id            uuid   NOT NULL,
    asset              text COLLATE "C" NOT NULL,
    available          bigint NOT NULL DEFAULT 0,
    locked             bigint NOT NULL DEFAULT 0,
    shares             bigint NOT NULL DEFAULT 0,
    locked_shares      bigint NOT NULL DEFAULT 0,
    deposited          bigint NOT NULL DEFAULT 0,
    withdrawn          bigint NOT NULL DEFAULT 0,
    total_yield_earned bigint NOT NULL DEFAULT 0,
    bonuses            bigint NOT NULL DEFAULT 0,
    fees               bigint NOT NULL DEFAULT 0,
    last_yield_at      timestamptz,
    -- Pending transactions of any type: what must end before the user can be closed.
    pending            integer NOT NULL DEFAULT 0,
    version            bigint NOT NULL DEFAULT 0,
    chain_hash         bytea  NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000',
    -- The time of the newest audit row: the next one is not earlier.
    chain_at           timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00',
    -- The owner's status, as far as posting needs it: changed with users.status, user first.
    owner_status       text   NOT NULL DEFAULT 'active',
    CONSTRAINT accounts_pkey PRIMARY KEY (user_id, asset),
    CONSTRAINT accounts_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id),
    CONSTRAINT accounts_asset_fkey FOREIGN KEY (asset) REFERENCES assets (asset),
    CONSTRAINT accounts_not_negative_check CHECK (
        available >= 0 AND locked >= 0 AND shares >= 0 AND locked_shares >= 0 AND deposited >= 0
        AND withdrawn >= 0 AND total_yield_earned >= 0 AND bonuses >= 0 AND fees >= 0 AND pending >= 0),
    CONSTRAINT accounts_bound_check CHECK (
        available + locked < 1000000000000000000 AND shares + locked_shares < 1000000000000000000),
    -- In numeric, so that the sum itself cannot overflow.
    CONSTRAINT accounts_books_check CHECK (
        available::numeric + locked = deposited::numeric + total_yield_earned + bonuses - withdrawn - fees)
) WITH (fillfactor = 70);
CREATE INDEX accounts_asset_idx ON accounts (asset);

CREATE TABLE transactions (
    user_id          uuid        NOT NULL,
    transaction_id   uuid        NOT NULL,
    type             text        NOT NULL,
    status           text        NOT NULL,
    asset            text COLLATE "C" NOT NULL,
    amount           bigint      NOT NULL,
    shares           bigint      NOT NULL DEFAULT 0,
    expires_at       timestamptz,
    submitted_at     timestamptz,
    client_reference text COLLATE "C",
    tx_hash          text COLLATE "C",
    block_number     bigint,
    gas_used         bigint,
    gas_fee          text,
    confirmations    bigint      NOT NULL DEFAULT 0,
    exchange_rate    text,
    amount_vnd       bigint,
    metadata         text,
    error_message    text,
    created_at       timestamptz NOT NULL,
    confirmed_at     timestamptz,
    CONSTRAINT transactions_pkey PRIMARY KEY (user_id, transaction_id),
    CONSTRAINT transactions_account_fkey FOREIGN KEY (user_id, asset) REFERENCES accounts (user_id, asset),
    CONSTRAINT transactions_type_check CHECK (type IN ('deposit', 'withdraw', 'yield_harvest', 'referral_bonus')),
    CONSTRAINT transactions_status_check CHECK (status IN ('pending', 'confirmed', 'failed', 'cancelled')),
    CONSTRAINT transactions_amount_check CHECK (amount > 0 AND amount < 1000000000000000000),
    CONSTRAINT transactions_shares_check CHECK (shares >= 0 AND shares < 1000000000000000000),
    CONSTRAINT transactions_confirmed_check CHECK ((status = 'confirmed') = (confirmed_at IS NOT NULL))
) WITH (fillfactor = 90);
CREATE INDEX transactions_created_idx ON transactions (user_id, created_at DESC, transaction_id DESC);
CREATE UNIQUE INDEX transactions_client_reference_key ON transactions (user_id, client_reference)
    WHERE client_reference IS NOT NULL;
CREATE UNIQUE INDEX transactions_tx_hash_key ON transactions (user_id, type, tx_hash) WHERE tx_hash IS NOT NULL;
CREATE INDEX transactions_expiry_idx ON transactions (expires_at)
    WHERE status = 'pending' AND expires_at IS NOT NULL AND submitted_at IS NULL;

-- Two legs for each confirmed transaction, which sum to zero. Never changed.
CREATE TABLE entries (
    user_id        uuid        NOT NULL,
    transaction_id uuid        NOT NULL,
    account        text COLLATE "C" NOT NULL,
    asset          text COLLATE "C" NOT NULL,
    amount         bigint      NOT NULL,
    at             timestamptz NOT NULL,
    CONSTRAINT entries_pkey PRIMARY KEY (user_id, transaction_id, account),
    CONSTRAINT entries_transaction_fkey FOREIGN KEY (user_id, transaction_id)
        REFERENCES transactions (user_id, transaction_id),
    CONSTRAINT entries_account_check CHECK (account IN ('user', 'custody', 'yield', 'promotions', 'fees'))
);
CREATE INDEX entries_yield_idx ON entries (user_id, asset, at) WHERE account = 'yield';

-- The trail. user_id is the nil UUID for chains of the platform. There is no foreign key to users on
-- purpose: nothing that happens to a user may touch the trail.
CREATE TABLE audit (
    user_id             uuid        NOT NULL,
    chain               text COLLATE "C" NOT NULL,
    seq                 bigint      NOT NULL,
    transaction_id      uuid,
    action              text        NOT NULL,
    previous_status     text,
    new_status          text,
    amount              bigint,
    shares              bigint,
    available_after     bigint,
    locked_after        bigint,
    shares_after        bigint,
    locked_shares_after bigint,
    actor_kind          text        NOT NULL,
    actor_id            text        NOT NULL,
    actor_session_id    uuid,
    request_id          text        NOT NULL,
    at                  timestamptz NOT NULL,
    reason_commitment   bytea,
    data_commitment     bytea,
    previous_hash       bytea       NOT NULL,
    hash                bytea       NOT NULL,
    -- The database transaction that wrote it: for checkpoints, which must not miss a late commit.
    written_by          xid8        NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT audit_pkey PRIMARY KEY (user_id, chain, seq)
);
CREATE INDEX audit_transaction_idx ON audit (user_id, transaction_id, seq) WHERE transaction_id IS NOT NULL;
CREATE INDEX audit_at_idx ON audit (user_id, at DESC, chain DESC, seq DESC);

-- Heads of chains that have no account row. Locked by whoever appends.
CREATE TABLE chain_heads (
    user_id uuid        NOT NULL,
    chain   text COLLATE "C" NOT NULL,
    seq     bigint      NOT NULL,
    hash    bytea       NOT NULL,
    at      timestamptz NOT NULL,
    CONSTRAINT chain_heads_pkey PRIMARY KEY (user_id, chain)
);

-- Personal content that the trail commits to; may be erased.
CREATE TABLE audit_private (
    user_id uuid   NOT NULL,
    chain   text COLLATE "C" NOT NULL,
    seq     bigint NOT NULL,
    field   text COLLATE "C" NOT NULL,
    salt    bytea  NOT NULL,
    value   text   NOT NULL,
    CONSTRAINT audit_private_pkey PRIMARY KEY (user_id, chain, seq, field)
);

CREATE FUNCTION abunfi_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END;
$$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER entries_no_truncate BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();

-- Answers to requests on one user. Written with the effect, in one transaction.
CREATE TABLE idempotency_keys (
    user_id     uuid        NOT NULL,
    principal   text COLLATE "C" NOT NULL,
    scope       text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea       NOT NULL,
    answer      text        NOT NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, principal, scope, key)
);
CREATE INDEX idempotency_keys_created_idx ON idempotency_keys (created_at);

-- Requests over many users. answer stays null for a batch that is not atomic: its items have their own.
CREATE TABLE batch_keys (
    principal   text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea       NOT NULL,
    request_id  text        NOT NULL,
    answer      text,
    created_at  timestamptz NOT NULL,
    CONSTRAINT batch_keys_pkey PRIMARY KEY (principal, key)
);
CREATE INDEX batch_keys_created_idx ON batch_keys (created_at);

-- Heads of user-owned documents: they decide version and content; see the documents domain.
CREATE TABLE document_heads (
    user_id         uuid        NOT NULL,
    kind            text COLLATE "C" NOT NULL,
    version         bigint      NOT NULL,
    hash            bytea       NOT NULL,
    deleted         boolean     NOT NULL DEFAULT false,
    applied_version bigint      NOT NULL DEFAULT -1,
    image           text,
    updated_at      timestamptz NOT NULL,
    applied_at      timestamptz,
    lease           uuid,
    leased_until    timestamptz,
    attempts        integer     NOT NULL DEFAULT 0,
    next_at         timestamptz,
    foreign_content boolean     NOT NULL DEFAULT false,
    CONSTRAINT document_heads_pkey PRIMARY KEY (user_id, kind),
    CONSTRAINT document_heads_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id),
    CONSTRAINT document_heads_kind_check CHECK (kind IN ('preferences', 'metadata'))
) WITH (fillfactor = 80);
-- next_at is null exactly when nothing is to be done.
CREATE INDEX document_heads_due_idx ON document_heads (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX document_heads_foreign_idx ON document_heads (user_id) WHERE foreign_content;
CREATE INDEX document_heads_images_idx ON document_heads (applied_at) WHERE image IS NOT NULL AND applied_at IS NOT NULL;

-- Raised by hand after a restore, so that new versions are newer than all that the document store has seen.
CREATE TABLE document_epoch (
    is_only boolean NOT NULL DEFAULT true,
    epoch   bigint  NOT NULL DEFAULT 0,
    CONSTRAINT document_epoch_pkey PRIMARY KEY (is_only),
    CONSTRAINT document_epoch_only_check CHECK (is_only)
);
INSERT INTO document_epoch DEFAULT VALUES;

-- Content, when this database is the document store. canonical is what is hashed and served (jsonb would
-- reorder, and take 1.0 for 1); doc is for queries. Both are null in a tombstone, which keeps its version
-- so that a late write of an older one cannot bring the document back.
CREATE TABLE documents (
    user_id   uuid   NOT NULL,
    kind      text   COLLATE "C" NOT NULL,
    version   bigint NOT NULL,
    canonical text,
    doc       jsonb,
    CONSTRAINT documents_pkey PRIMARY KEY (user_id, kind),
    CONSTRAINT documents_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id),
    CONSTRAINT documents_tombstone_check CHECK ((canonical IS NULL) = (doc IS NULL))
);

CREATE TABLE dev_data (
    namespace  text COLLATE "C" NOT NULL,
    key        text        COLLATE "C" NOT NULL,
    canonical  text        NOT NULL,
    doc        jsonb       NOT NULL,
    version    bigint      NOT NULL,
    expires_at timestamptz,
    updated_at timestamptz NOT NULL,
    CONSTRAINT dev_data_pkey PRIMARY KEY (namespace, key)
);
CREATE INDEX dev_data_expiry_idx ON dev_data (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE logs (
    id         uuid        NOT NULL,
    at         timestamptz NOT NULL,
    level      smallint    NOT NULL,
    target     text COLLATE "C" NOT NULL,
    message    text        NOT NULL,
    -- The message in lower case, for searches.
    folded     text        NOT NULL,
    fields     text        NOT NULL,
    request_id text COLLATE "C",
    expires_at timestamptz NOT NULL,
    CONSTRAINT logs_pkey PRIMARY KEY (id)
);
CREATE INDEX logs_at_idx ON logs (at DESC, id DESC);
CREATE INDEX logs_request_idx ON logs (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX logs_expiry_idx ON logs (expires_at);

CREATE TABLE sessions (
    user_id         uuid        NOT NULL,
    session_id      uuid        NOT NULL,
    token_hash      bytea       NOT NULL,
    device          text,
    ip              text,
    created_at      timestamptz NOT NULL,
    last_seen_at    timestamptz NOT NULL,
    idle_expires_at timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    CONSTRAINT sessions_pkey PRIMARY KEY (user_id, session_id),
    CONSTRAINT sessions_user_fkey FOREIGN KEY (user_id) REFERENCES users (user_id)
);
CREATE UNIQUE INDEX sessions_token_hash_key ON sessions (token_hash);
CREATE INDEX sessions_expiry_idx ON sessions (idle_expires_at);

-- What was valid and must be refused, whatever a cache says. Every instance reads the recent ones.
CREATE TABLE revocations (
    kind text COLLATE "C" NOT NULL,
    id   uuid        NOT NULL,
    at   timestamptz NOT NULL,
    CONSTRAINT revocations_pkey PRIMARY KEY (kind, id, at)
);
CREATE INDEX revocations_at_idx ON revocations (at DESC);

CREATE TABLE service_keys (
    key_id     uuid        NOT NULL,
    owner      text        NOT NULL,
    scopes     text[]      NOT NULL,
    token_hash bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT service_keys_pkey PRIMARY KEY (key_id)
);
CREATE UNIQUE INDEX service_keys_token_hash_key ON service_keys (token_hash);

-- Effects that commits promised. Rows are deleted when carried out.
CREATE TABLE outbox (
    id           uuid        NOT NULL,
    effect       text        NOT NULL,
    created_at   timestamptz NOT NULL,
    lease        uuid,
    leased_until timestamptz,
    attempts     integer     NOT NULL DEFAULT 0,
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
);
CREATE INDEX outbox_created_idx ON outbox (created_at);
