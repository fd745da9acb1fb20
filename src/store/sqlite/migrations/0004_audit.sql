CREATE TABLE {schema}_audit ( -- What operators did through the dashboard or the admin router. The last 10,000 rows are kept.
    position INTEGER PRIMARY KEY AUTOINCREMENT, -- The order of the rows.
    done_at TEXT NOT NULL, -- When it was done, as RFC 3339.
    record TEXT NOT NULL -- Who did what to how many messages, as JSON.
);
