CREATE TABLE {schema}.inbox (
    source text NOT NULL,
    id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);
CREATE INDEX inbox_handled_at ON {schema}.inbox (handled_at);
COMMENT ON TABLE {schema}.inbox IS 'Messages that were handled, written in the transaction of their handler: one that comes again is not handled again.';
COMMENT ON COLUMN {schema}.inbox.source IS 'The consumer that handled it.';
COMMENT ON COLUMN {schema}.inbox.id IS 'The id of the message.';
COMMENT ON COLUMN {schema}.inbox.handled_at IS 'When that was; rows older than the retention are deleted.';
