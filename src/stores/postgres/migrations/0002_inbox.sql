CREATE TABLE {schema}.inbox (
    source text NOT NULL,
    id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);
CREATE INDEX inbox_handled_at ON {schema}.inbox (handled_at);
