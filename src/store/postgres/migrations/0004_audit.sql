CREATE TABLE {schema}.audit (
    position bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    done_at text NOT NULL,
    record text NOT NULL
);
COMMENT ON TABLE {schema}.audit IS 'What operators did through the dashboard or the admin router. The last 10,000 rows are kept.';
COMMENT ON COLUMN {schema}.audit.position IS 'The order of the rows.';
COMMENT ON COLUMN {schema}.audit.done_at IS 'When it was done, as RFC 3339.';
COMMENT ON COLUMN {schema}.audit.record IS 'Who did what to how many messages, as JSON.';
