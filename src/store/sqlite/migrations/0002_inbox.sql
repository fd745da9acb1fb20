CREATE TABLE {schema}_inbox ( -- Messages that were handled: one that comes again is not handled again.
    source TEXT NOT NULL, -- The consumer that handled it.
    id BLOB NOT NULL, -- The id of the message.
    handled_at INTEGER NOT NULL DEFAULT (unixepoch()), -- In seconds since 1970; rows older than the retention are deleted.
    PRIMARY KEY (source, id)
) WITHOUT ROWID;
CREATE INDEX {schema}_inbox_handled_at ON {schema}_inbox (handled_at);
