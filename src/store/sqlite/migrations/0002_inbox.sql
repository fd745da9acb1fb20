CREATE TABLE {schema}_inbox ( -- Messages that were handled. A message that is delivered again is not handled again.
    source TEXT NOT NULL, -- The consumer that handled the message, or (stored) for messages that are stored once.
    id BLOB NOT NULL, -- The id of the message.
    handled_at INTEGER NOT NULL DEFAULT (unixepoch()), -- In seconds since 1970. Rows older than OUTBOX.INBOX_RETENTION are deleted.
    PRIMARY KEY (source, id)
) WITHOUT ROWID;
CREATE INDEX {schema}_inbox_handled_at ON {schema}_inbox (handled_at);
