-- NULL if the instance is of an earlier version. Times are milliseconds since 1970.
ALTER TABLE {schema}_members ADD COLUMN name TEXT; -- The name of the instance for people.
ALTER TABLE {schema}_members ADD COLUMN version TEXT; -- The version of tower-outbox in the instance.
ALTER TABLE {schema}_members ADD COLUMN opened_at INTEGER; -- When the instance opened the outbox.
ALTER TABLE {schema}_members ADD COLUMN heartbeat_at INTEGER; -- When its last heartbeat was.
