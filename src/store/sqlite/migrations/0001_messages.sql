-- AUTOINCREMENT: a position is never given twice. Times are microseconds since 1970, but for `until`. A row that was deleted leaves its place
-- to the next, and a message without a key and without a delay is in no index but the table itself.

CREATE TABLE {schema}_messages ( -- Messages to be sent. A row is deleted when the bus has confirmed its message.
    position INTEGER PRIMARY KEY AUTOINCREMENT, -- The order of messages.
    id BLOB NOT NULL, -- The id of the message, the same however often it is sent.
    topic TEXT NOT NULL, -- The topic, as it was enqueued.
    key TEXT, -- The ordering key; NULL if there is none, or if it has a NUL character: then details has it.
    key_hash INTEGER, -- Of topic and key (FNV-1a); NULL if there is no key.
    details TEXT NOT NULL, -- Headers, content type, time, priority, expiry, delay: JSON.
    body BLOB NOT NULL, -- The body, as it was enqueued.
    size INTEGER NOT NULL, -- About how many bytes the row takes: what the limit counts.
    stored_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000), -- When it was stored.
    due_at INTEGER, -- Not to be sent before: a delay, or with attempts a retry; NULL: at once.
    attempts INTEGER NOT NULL DEFAULT 0, -- How many attempts have failed.
    failures TEXT -- The last of them, oldest first: JSON.
);
CREATE INDEX {schema}_messages_key ON {schema}_messages (key_hash, position) WHERE key_hash IS NOT NULL;
CREATE INDEX {schema}_messages_due ON {schema}_messages (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE {schema}_dead_letters ( -- Messages given up on, until they are requeued or dropped. Columns as of messages.
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    topic TEXT NOT NULL,
    key TEXT,
    key_hash INTEGER,
    details TEXT NOT NULL,
    body BLOB NOT NULL,
    size INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    failures TEXT,
    died_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000) -- When it was given up on.
);
CREATE TABLE {schema}_relays ( -- The instances of the app that send.
    id BLOB PRIMARY KEY, -- Of one life of an instance; never used again.
    until INTEGER NOT NULL -- In milliseconds since 1970: from then on others strike it off; its heartbeats move that on.
) WITHOUT ROWID;
CREATE TABLE {schema}_buckets ( -- Who sends: one bucket, as one instance at a time does.
    bucket INTEGER PRIMARY KEY, -- The part of the messages: all of them.
    owner BLOB, -- An id of relays; NULL, or one that is not there: free.
    token INTEGER NOT NULL DEFAULT 0 -- Rises with each new owner: one of before changes nothing any more.
);
INSERT INTO {schema}_buckets (bucket) VALUES (0);
