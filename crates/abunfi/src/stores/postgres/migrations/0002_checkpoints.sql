-- Checkpoints over all chains of the trail: see docs/audit-format.md.

-- A commitment is over salt and value: only a salt of a known length tells where one ends. (SQLite cannot
-- add a check to a table; there, as here, the verifier looks.)
ALTER TABLE audit_private ADD CONSTRAINT audit_private_salt_check CHECK (octet_length(salt) = 32);

-- xid8 has no index that costs next to nothing; a bigint has.
ALTER TABLE audit ALTER COLUMN written_by DROP DEFAULT;
ALTER TABLE audit ALTER COLUMN written_by TYPE bigint USING written_by::text::bigint;
ALTER TABLE audit ALTER COLUMN written_by SET DEFAULT pg_current_xact_id()::text::bigint;

-- Rows are only ever appended, so their transaction ids rise with their place: a range of blocks is known by
-- its lowest and highest. Writers pay almost nothing for it. A server without BRIN gets an ordinary index.
DO $$
BEGIN
    CREATE INDEX audit_written_by_idx ON audit USING brin (written_by)
        WITH (pages_per_range = 16, autosummarize = on);
EXCEPTION WHEN undefined_object OR feature_not_supported OR invalid_parameter_value THEN
    CREATE INDEX audit_written_by_idx ON audit (written_by);
END;
$$;

-- One row for each checkpoint, numbered from 1 without gaps. hash and signature are over its documented
-- bytes; without a key a checkpoint is not signed.
CREATE TABLE checkpoints (
    number        bigint      NOT NULL,
    previous_hash bytea       NOT NULL,
    size          bigint      NOT NULL,
    root          bytea       NOT NULL,
    covered_rows  bigint      NOT NULL,
    at            timestamptz NOT NULL,
    hash          bytea       NOT NULL,
    public_key    bytea,
    signature     bytea,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (number),
    CONSTRAINT checkpoints_number_check CHECK (number > 0 AND size > 0),
    CONSTRAINT checkpoints_seal_check CHECK ((public_key IS NULL) = (signature IS NULL))
);

-- Which leaf of the tree is which chain's, for ever. No foreign key leads here or away, as for the trail.
CREATE TABLE chain_leaves (
    user_id uuid   NOT NULL,
    chain   text COLLATE "C" NOT NULL,
    leaf    bigint NOT NULL,
    CONSTRAINT chain_leaves_pkey PRIMARY KEY (user_id, chain),
    CONSTRAINT chain_leaves_leaf_key UNIQUE (leaf)
);

-- What each checkpoint changed: where the chain of a leaf ended. A leaf's newest row is what it holds now.
CREATE TABLE leaf_changes (
    leaf       bigint NOT NULL,
    checkpoint bigint NOT NULL,
    seq        bigint NOT NULL,
    hash       bytea  NOT NULL,
    CONSTRAINT leaf_changes_pkey PRIMARY KEY (leaf, checkpoint)
);
CREATE INDEX leaf_changes_checkpoint_idx ON leaf_changes (checkpoint, leaf);

-- The tree as of the newest checkpoint, 16 hashes to a row. A cache: it can be made again from leaf_changes.
CREATE TABLE merkle_tiles (
    level  integer NOT NULL,
    tile   bigint  NOT NULL,
    hashes bytea   NOT NULL,
    CONSTRAINT merkle_tiles_pkey PRIMARY KEY (level, tile)
) WITH (fillfactor = 70);

-- One row, locked by whoever makes a checkpoint. Rows of the trail that were written at position since or
-- later have not all been looked at; a look over many chains takes several checkpoints: it has come as far
-- as (after_user, after_chain), and when it is done the next one begins at until. A position is a
-- transaction id, and cluster says whose.
CREATE TABLE checkpoint_state (
    is_only     boolean NOT NULL DEFAULT true,
    ledger_id   uuid    NOT NULL,
    cluster     bigint,
    since       bigint  NOT NULL DEFAULT 0,
    until       bigint,
    after_user  uuid,
    after_chain text COLLATE "C",
    CONSTRAINT checkpoint_state_pkey PRIMARY KEY (is_only),
    CONSTRAINT checkpoint_state_only_check CHECK (is_only)
);
INSERT INTO checkpoint_state (ledger_id) VALUES (gen_random_uuid());

CREATE TRIGGER checkpoints_append_only BEFORE UPDATE OR DELETE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER checkpoints_no_truncate BEFORE TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER chain_leaves_append_only BEFORE UPDATE OR DELETE ON chain_leaves
    FOR EACH ROW EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER chain_leaves_no_truncate BEFORE TRUNCATE ON chain_leaves
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER leaf_changes_append_only BEFORE UPDATE OR DELETE ON leaf_changes
    FOR EACH ROW EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER leaf_changes_no_truncate BEFORE TRUNCATE ON leaf_changes
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();
