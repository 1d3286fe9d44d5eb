"""
The tables of cases in SQLite.

A change raises `VERSION`, and brings stores of the version before along.
"""

from typing import Final

VERSION: Final = 1
APPLICATION: Final = 0x55474353  # "UGCS", in the file's head: whose file it is

TABLES: Final = """
CREATE TABLE tally (                               -- one row
    waiting INTEGER NOT NULL                       -- how many are in the queue
);
INSERT INTO tally VALUES (0);
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0,
    duplicate INTEGER NOT NULL DEFAULT 0,
    invalid INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,            -- of those that it was the first to bring
    known INTEGER NOT NULL DEFAULT 0,
    opened INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    right INTEGER NOT NULL DEFAULT 0,
    wrong INTEGER NOT NULL DEFAULT 0,
    level REAL,                                    -- of its quota's bucket
    level_at REAL
);
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    item TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    raw TEXT,                                      -- NULL: as the item
    seen_at INTEGER NOT NULL,
    context TEXT NOT NULL,
    queries INTEGER NOT NULL,
    source INTEGER NOT NULL,                       -- the first
    added_at INTEGER NOT NULL,
    counted INTEGER NOT NULL DEFAULT 0,            -- queries that its case knows of
    case_id INTEGER,
    score REAL,
    action TEXT,
    reason TEXT,
    model TEXT,
    error TEXT                                     -- it is dead
);
CREATE UNIQUE INDEX items_item ON items (item);
CREATE INDEX items_case ON items (case_id, score DESC) WHERE case_id IS NOT NULL;
CREATE INDEX items_dead ON items (id) WHERE error IS NOT NULL;
CREATE TABLE reports (                             -- all but the first report of an item
    item INTEGER NOT NULL,
    source INTEGER NOT NULL,
    at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    raw TEXT NOT NULL,
    context TEXT NOT NULL,
    queries INTEGER NOT NULL,
    PRIMARY KEY (item, source)
) WITHOUT ROWID;
CREATE TABLE queue (
    item INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    bulk INTEGER NOT NULL,                         -- 0: urgent
    due REAL NOT NULL,
    taken_at REAL,
    takes INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX queue_due ON queue (bulk, due, item);
CREATE TABLE cases (
    id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    action TEXT,                                   -- the `Act` in force; NULL: undecided
    decision INTEGER,                              -- its number in `decisions`
    score REAL,
    place REAL NOT NULL,                           -- minus the priority: the first comes first
    pattern TEXT,
    address TEXT,                                  -- to which its name leads
    address_until INTEGER,                         -- when it is looked up again; NULL: never was
    queries INTEGER NOT NULL,
    items INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    decided_at INTEGER,
    recheck_at INTEGER,
    holder TEXT,
    lease_until INTEGER
);
CREATE INDEX cases_queue ON cases (state, place, id);
CREATE INDEX cases_place ON cases (place, id);
CREATE INDEX cases_newest ON cases (state, id);
CREATE INDEX cases_pattern ON cases (pattern, place, id) WHERE pattern IS NOT NULL;
CREATE INDEX cases_lease ON cases (lease_until) WHERE state = 'leased';
CREATE INDEX cases_recheck ON cases (recheck_at) WHERE recheck_at IS NOT NULL;
CREATE INDEX cases_address ON cases (address, place, id) WHERE address IS NOT NULL;
CREATE INDEX cases_unaddressed ON cases (place, id)
    WHERE address_until IS NULL AND state IN ('open', 'leased');
CREATE INDEX cases_address_until ON cases (address_until) WHERE address_until IS NOT NULL;
CREATE TABLE case_sources (
    source INTEGER NOT NULL,
    case_id INTEGER NOT NULL,
    place REAL NOT NULL,                           -- the case's
    PRIMARY KEY (source, case_id)
) WITHOUT ROWID;
CREATE INDEX case_sources_place ON case_sources (source, place, case_id);
CREATE INDEX case_sources_case ON case_sources (case_id);
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY,
    step TEXT NOT NULL,
    who TEXT NOT NULL,
    act TEXT NOT NULL,
    category TEXT NOT NULL,
    reason TEXT NOT NULL,
    scope TEXT NOT NULL,
    expires_at INTEGER,
    key TEXT,
    begun_at INTEGER NOT NULL,
    done_at INTEGER,
    serial INTEGER,
    undo_serial INTEGER,
    approver TEXT,
    remark TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',               -- of the claims that it makes
    appeal INTEGER NOT NULL DEFAULT 0,             -- that it was made for
    UNIQUE (who, key)
);
CREATE INDEX decisions_step ON decisions (step, number);
CREATE INDEX decisions_appeal ON decisions (appeal, number) WHERE appeal > 0;
CREATE TABLE decided (
    number INTEGER NOT NULL,
    case_id INTEGER NOT NULL,
    before TEXT NOT NULL,                          -- the case's state
    credit TEXT,                                   -- sources that were right or wrong, JSON
    rules TEXT NOT NULL DEFAULT '[]',              -- keys of claims, JSON; case 0: of none
    PRIMARY KEY (number, case_id)
) WITHOUT ROWID;
CREATE INDEX decided_case ON decided (case_id, number);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    case_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX events_case ON events (case_id, id);
CREATE TABLE submissions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    item INTEGER NOT NULL,
    source TEXT NOT NULL,
    public INTEGER NOT NULL,
    network TEXT,                                  -- of a public one, under the day's pseudonym
    comment TEXT NOT NULL,
    evidence TEXT NOT NULL,                        -- JSON
    tlp TEXT NOT NULL,
    submitted_at INTEGER NOT NULL,
    action TEXT,                                   -- that its submitter was notified of
    decision INTEGER,                              -- its number; NULL: a rule was in force before
    decided_at INTEGER
);
CREATE INDEX submissions_item ON submissions (item);
CREATE INDEX submissions_source ON submissions (source, number);
CREATE INDEX submissions_decision ON submissions (decision) WHERE decision IS NOT NULL;
CREATE TABLE webhooks (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    events TEXT NOT NULL,                          -- JSON
    secret TEXT NOT NULL,                          -- as it is: messages are signed with it
    who TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,
    last_at INTEGER,                               -- of what was delivered
    error TEXT                                     -- of the last try; NULL: it did well
);
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY,
    webhook INTEGER NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL
);
CREATE INDEX outbox_due ON outbox (webhook, due, number);
CREATE TABLE appeals (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,                       -- that nobody guesses
    item TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    day INTEGER NOT NULL,                          -- of the incident, since 1970
    contact TEXT NOT NULL,
    text TEXT NOT NULL,
    token TEXT NOT NULL,                           -- that a proof shows
    state TEXT NOT NULL,
    unproven INTEGER NOT NULL DEFAULT 1,           -- proven ones come first
    added_at INTEGER NOT NULL,
    proof TEXT,
    proof_at INTEGER,
    decided_at INTEGER,
    who TEXT,
    reason TEXT NOT NULL DEFAULT '',
    answer TEXT NOT NULL DEFAULT '',
    serial INTEGER
);
CREATE INDEX appeals_queue ON appeals (state, unproven, number);
CREATE INDEX appeals_all ON appeals (unproven, number);
CREATE INDEX appeals_owner ON appeals (owner, number);
CREATE TABLE appeal_events (
    id INTEGER PRIMARY KEY,
    appeal INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX appeal_events_appeal ON appeal_events (appeal, id);
"""
