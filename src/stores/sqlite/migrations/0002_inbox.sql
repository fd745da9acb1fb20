CREATE TABLE {schema}_inbox (
    source TEXT NOT NULL,
    id BLOB NOT NULL,
    handled_at INTEGER NOT NULL DEFAULT (unixepoch()),
    PRIMARY KEY (source, id)
) WITHOUT ROWID;
CREATE INDEX {schema}_inbox_handled_at ON {schema}_inbox (handled_at);
