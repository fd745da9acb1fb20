CREATE TABLE {schema}.trusted_keys (
    origin text NOT NULL CHECK (length(origin) BETWEEN 1 AND 255),
    pem text NOT NULL CHECK (length(pem) <= 2000),
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin, pem)
);
COMMENT ON TABLE {schema}.trusted_keys IS 'The public keys of senders whose signatures are trusted, with SIGNING.TRUSTED = "database". Consumers read it again within a second.';
COMMENT ON COLUMN {schema}.trusted_keys.origin IS 'The sender, as its SIGNING.ORIGIN.';
COMMENT ON COLUMN {schema}.trusted_keys.pem IS 'One public key, Ed25519 or RSA, in PEM form. An origin may have several rows, of which 8 are tried.';
COMMENT ON COLUMN {schema}.trusted_keys.added_at IS 'When the key was added.';
