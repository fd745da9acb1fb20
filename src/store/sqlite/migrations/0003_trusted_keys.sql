CREATE TABLE {schema}_trusted_keys ( -- The public keys of senders whose signatures are trusted, with SIGNING.TRUSTED = "database". Consumers read it again within a second.
    origin TEXT NOT NULL CHECK (length(origin) BETWEEN 1 AND 255), -- The sender, as its SIGNING.ORIGIN.
    pem TEXT NOT NULL CHECK (length(pem) <= 2000), -- One public key, Ed25519 or RSA, in PEM form. An origin may have several rows, of which 8 are tried.
    added_at INTEGER NOT NULL DEFAULT (unixepoch()), -- When the key was added, in seconds since 1970.
    PRIMARY KEY (origin, pem)
) WITHOUT ROWID;
