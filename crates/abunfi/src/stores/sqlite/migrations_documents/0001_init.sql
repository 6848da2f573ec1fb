-- Developers' data and logs, in a file of their own: what they write never waits for the money's one
-- writer, nor the money for them. Both go straight to the document store, without heads.

CREATE TABLE dev_data (
    namespace  TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    canonical  TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    expires_at INTEGER,
    updated_at INTEGER NOT NULL,
    CONSTRAINT dev_data_pkey PRIMARY KEY (namespace, key)
) STRICT;
CREATE INDEX dev_data_expiry_idx ON dev_data (expires_at) WHERE expires_at IS NOT NULL;

-- folded is the message in lower case by Unicode's rules, null when that is the message itself: SQLite's
-- own lower() knows ASCII only.
CREATE TABLE logs (
    id         BLOB    NOT NULL,
    at         INTEGER NOT NULL,
    level      INTEGER NOT NULL,
    target     TEXT    NOT NULL,
    message    TEXT    NOT NULL,
    folded     TEXT,
    fields     TEXT    NOT NULL,
    request_id TEXT,
    expires_at INTEGER NOT NULL,
    CONSTRAINT logs_pkey PRIMARY KEY (id),
    CONSTRAINT logs_level_check CHECK (level BETWEEN 0 AND 4)
) STRICT;
CREATE INDEX logs_at_idx ON logs (at DESC, id DESC);
CREATE INDEX logs_request_idx ON logs (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX logs_expiry_idx ON logs (expires_at);
