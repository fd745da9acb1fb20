-- AUTOINCREMENT: a position is never used twice. Times are microseconds since 1970, except `expires_at`. SQLite reuses the
-- space of deleted rows. A message without a key and without a delay is in no index except the table itself.

CREATE TABLE {schema}_messages ( -- Messages to be sent. A row is deleted when the broker has confirmed its message.
    position INTEGER PRIMARY KEY AUTOINCREMENT, -- The order of the messages.
    id BLOB NOT NULL, -- The id of the message. It stays the same when the message is sent again.
    topic TEXT NOT NULL, -- The topic, without a prefix of the broker.
    key TEXT, -- The ordering key. NULL if there is none, or if it has a NUL character: then it is in details.
    key_hash INTEGER, -- The hash of topic and key (FNV-1a). NULL if there is no key.
    details TEXT NOT NULL, -- Headers, content type, time, priority, expiry and delay, as JSON.
    body BLOB NOT NULL, -- The body of the message.
    size INTEGER NOT NULL, -- About how many bytes the row takes. OUTBOX.MAX_BYTES limits their sum.
    stored_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000), -- When the message was stored.
    due_at INTEGER, -- The message is not sent before this time: the end of its delay, or its next attempt. NULL if it can be sent at once.
    attempts INTEGER NOT NULL DEFAULT 0, -- How many attempts to send the message have failed.
    failures TEXT -- The last failed attempts, oldest first, as JSON.
);
CREATE INDEX {schema}_messages_key ON {schema}_messages (key_hash, position) WHERE key_hash IS NOT NULL;
CREATE INDEX {schema}_messages_due ON {schema}_messages (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE {schema}_dead_letters ( -- Messages that were given up on. They stay until they are requeued or dropped. The columns are those of messages.
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
    died_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000000) -- When the message was given up on.
);
CREATE TABLE {schema}_members ( -- The instances of the app that can send messages.
    id BLOB PRIMARY KEY, -- The id of an instance. An instance that has expired joins again with a new id.
    expires_at INTEGER NOT NULL -- In milliseconds since 1970. Other instances remove the member after this time. Its heartbeats extend it.
) WITHOUT ROWID;
CREATE TABLE {schema}_partitions ( -- One row: the owner of this partition sends all messages.
    partition INTEGER PRIMARY KEY, -- The number of the partition.
    owner BLOB, -- The member that sends the messages. The partition is free if this is NULL or no member has this id.
    fencing_token INTEGER NOT NULL DEFAULT 0 -- Rises with each new owner. Statements of an earlier owner have an older token and change nothing.
);
INSERT INTO {schema}_partitions (partition) VALUES (0);
