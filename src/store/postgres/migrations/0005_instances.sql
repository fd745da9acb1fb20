ALTER TABLE {schema}.members
    ADD COLUMN name text,
    ADD COLUMN version text,
    ADD COLUMN opened_at timestamptz,
    ADD COLUMN heartbeat_at timestamptz;
COMMENT ON COLUMN {schema}.members.name IS 'The name of the instance for people. NULL, as the other columns, if it is of an earlier version.';
COMMENT ON COLUMN {schema}.members.version IS 'The version of tower-outbox in the instance.';
COMMENT ON COLUMN {schema}.members.opened_at IS 'When the instance opened the outbox.';
COMMENT ON COLUMN {schema}.members.heartbeat_at IS 'When its last heartbeat was.';
