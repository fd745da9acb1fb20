CREATE TABLE {schema}.inbox (
    source text NOT NULL,
    id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);
CREATE INDEX inbox_handled_at ON {schema}.inbox (handled_at);
COMMENT ON TABLE {schema}.inbox IS 'Messages that were handled, recorded in the transaction of their handler. A message that is delivered again is not handled again.';
COMMENT ON COLUMN {schema}.inbox.source IS 'The consumer that handled the message, or (stored) for messages that are stored once.';
COMMENT ON COLUMN {schema}.inbox.id IS 'The id of the message.';
COMMENT ON COLUMN {schema}.inbox.handled_at IS 'When the message was handled. Rows older than OUTBOX.INBOX_RETENTION are deleted.';
