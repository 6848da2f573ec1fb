-- Checkpoints over all chains of the trail: see docs/audit-format.md, and PostgreSQL's for the tables.

CREATE TABLE checkpoints (
    number        INTEGER NOT NULL,
    previous_hash BLOB    NOT NULL,
    size          INTEGER NOT NULL,
    root          BLOB    NOT NULL,
    covered_rows  INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    hash          BLOB    NOT NULL,
    public_key    BLOB,
    signature     BLOB,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (number),
    CONSTRAINT checkpoints_number_check CHECK (number > 0 AND size > 0),
    CONSTRAINT checkpoints_seal_check CHECK ((public_key IS NULL) = (signature IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE chain_leaves (
    user_id BLOB    NOT NULL,
    chain   TEXT    NOT NULL,
    leaf    INTEGER NOT NULL,
    CONSTRAINT chain_leaves_pkey PRIMARY KEY (user_id, chain),
    CONSTRAINT chain_leaves_leaf_key UNIQUE (leaf)
) STRICT, WITHOUT ROWID;

CREATE TABLE leaf_changes (
    leaf       INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    hash       BLOB    NOT NULL,
    CONSTRAINT leaf_changes_pkey PRIMARY KEY (leaf, checkpoint)
) STRICT, WITHOUT ROWID;
CREATE INDEX leaf_changes_checkpoint_idx ON leaf_changes (checkpoint, leaf);

CREATE TABLE merkle_tiles (
    level  INTEGER NOT NULL,
    tile   INTEGER NOT NULL,
    hashes BLOB    NOT NULL,
    CONSTRAINT merkle_tiles_pkey PRIMARY KEY (level, tile)
) STRICT;

-- A position is a row id of the trail: with one writer, the order of commits. Rows are never deleted, so
-- row ids have no gaps, and VACUUM (which may give new ones) gives the same.
CREATE TABLE checkpoint_state (
    is_only     INTEGER NOT NULL DEFAULT 1,
    ledger_id   BLOB    NOT NULL,
    cluster     INTEGER,
    since       INTEGER NOT NULL DEFAULT 0,
    until       INTEGER,
    after_user  BLOB,
    after_chain TEXT,
    CONSTRAINT checkpoint_state_pkey PRIMARY KEY (is_only),
    CONSTRAINT checkpoint_state_only_check CHECK (is_only = 1)
) STRICT;
INSERT INTO checkpoint_state (ledger_id) VALUES (randomblob(16));

CREATE TRIGGER checkpoints_no_update BEFORE UPDATE ON checkpoints
    BEGIN SELECT RAISE(ABORT, 'checkpoints is append-only'); END;
CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints
    BEGIN SELECT RAISE(ABORT, 'checkpoints is append-only'); END;
CREATE TRIGGER checkpoints_no_replace BEFORE INSERT ON checkpoints
    WHEN EXISTS (SELECT 1 FROM checkpoints WHERE number = new.number)
    BEGIN SELECT RAISE(ABORT, 'checkpoints is append-only'); END;
CREATE TRIGGER chain_leaves_no_update BEFORE UPDATE ON chain_leaves
    BEGIN SELECT RAISE(ABORT, 'chain_leaves is append-only'); END;
CREATE TRIGGER chain_leaves_no_delete BEFORE DELETE ON chain_leaves
    BEGIN SELECT RAISE(ABORT, 'chain_leaves is append-only'); END;
CREATE TRIGGER chain_leaves_no_replace BEFORE INSERT ON chain_leaves
    WHEN EXISTS (SELECT 1 FROM chain_leaves WHERE user_id = new.user_id AND chain = new.chain)
        OR EXISTS (SELECT 1 FROM chain_leaves WHERE leaf = new.leaf)
    BEGIN SELECT RAISE(ABORT, 'chain_leaves is append-only'); END;
CREATE TRIGGER leaf_changes_no_update BEFORE UPDATE ON leaf_changes
    BEGIN SELECT RAISE(ABORT, 'leaf_changes is append-only'); END;
CREATE TRIGGER leaf_changes_no_delete BEFORE DELETE ON leaf_changes
    BEGIN SELECT RAISE(ABORT, 'leaf_changes is append-only'); END;
CREATE TRIGGER leaf_changes_no_replace BEFORE INSERT ON leaf_changes
    WHEN EXISTS (SELECT 1 FROM leaf_changes WHERE leaf = new.leaf AND checkpoint = new.checkpoint)
    BEGIN SELECT RAISE(ABORT, 'leaf_changes is append-only'); END;
