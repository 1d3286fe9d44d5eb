"""
The tables of the policy log in SQLite.

Claims are clustered by source and rule: a feed's rules lie side by side in the order that a refresh
brings them in, so a million of them are one sequential write and one sequential read, and no second
index is needed.  A key's claims are found by one look-up for each source, of which there are few.
"""

SCHEMA_VERSION = 2

SCHEMA = """
CREATE TABLE batch (
    serial INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,                -- milliseconds since 1970, UTC
    actor TEXT NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    effect_sha256 TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE TABLE claim (
    rule TEXT NOT NULL,
    source TEXT NOT NULL,
    category TEXT NOT NULL,
    action TEXT NOT NULL,
    evidence TEXT NOT NULL,
    from_serial INTEGER NOT NULL,
    to_serial INTEGER,                    -- NULL while the claim is active
    expires_at INTEGER,                   -- seconds since 1970, UTC
    PRIMARY KEY (source, rule, from_serial)
) WITHOUT ROWID;
CREATE INDEX claim_expiring ON claim (expires_at)
    WHERE expires_at IS NOT NULL AND to_serial IS NULL;
CREATE INDEX claim_excepting ON claim (rule) WHERE action = 'except' AND to_serial IS NULL;
CREATE INDEX IF NOT EXISTS claim_scheduled ON claim (rule)
    WHERE rule >= 'scheduled ' AND rule < 'scheduled!' AND to_serial IS NULL;
CREATE TABLE effect (
    serial INTEGER NOT NULL,
    key TEXT NOT NULL,
    before TEXT,
    after TEXT,
    PRIMARY KEY (serial, key)
) WITHOUT ROWID;
CREATE TABLE source (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE feed (
    name TEXT PRIMARY KEY,
    status TEXT NOT NULL                  -- JSON; operational, not policy
) WITHOUT ROWID;
CREATE TABLE quarantined (
    feed TEXT NOT NULL,
    rule TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (feed, rule)
) WITHOUT ROWID;
"""

STATEMENTS = SCHEMA.split(";\n")
TABLES = ("batch", "claim", "effect", "source", "feed", "quarantined")
