"""
The tables of cases in SQLite.

A change raises `VERSION`, and migrates stores of the version before.  Columns that end in ``_at``
or are called ``at`` hold seconds since 1970 (UTC).  Counters stand in rows instead of being counted
by queries, so that a list costs the same among a million cases.
"""

from typing import Final

VERSION: Final = 2
APPLICATION: Final = 0x55474353  # "UGCS", in the file's head: whose file it is

TABLES: Final = """
-- tally: one row
CREATE TABLE tally (
    waiting INTEGER NOT NULL                       -- how many are in the queue
);
INSERT INTO tally VALUES (0);
-- sources: one row per reporter: a token, or (public)
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    first_at INTEGER NOT NULL,                     -- first and last report
    last_at INTEGER NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0,           -- items that it was the first to report
    duplicate INTEGER NOT NULL DEFAULT 0,          -- reports of items that were known
    invalid INTEGER NOT NULL DEFAULT 0,            -- lines that are no candidates
    waiting INTEGER NOT NULL DEFAULT 0,            -- of its items, in the queue
    known INTEGER NOT NULL DEFAULT 0,              -- of its items, covered by a rule
    opened INTEGER NOT NULL DEFAULT 0,             -- of its items, that opened a case
    dead INTEGER NOT NULL DEFAULT 0,               -- of its items, that could not be checked
    right INTEGER NOT NULL DEFAULT 0,              -- of its cases, decided block
    wrong INTEGER NOT NULL DEFAULT 0,              -- of its cases, decided allow or dismiss
    level REAL,                                    -- left in its quota's bucket; NULL: full
    level_at REAL                                  -- time of `level`
);
-- items: one row per URL or name that was reported
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    item TEXT NOT NULL,                            -- canonical URL or name
    name TEXT NOT NULL,                            -- its host
    owner TEXT NOT NULL,                           -- registrable domain, or address
    raw TEXT,                                      -- as reported; NULL: the same as `item`
    seen_at INTEGER NOT NULL,                      -- latest sighting that was reported
    context TEXT NOT NULL,                         -- of the first report
    queries INTEGER NOT NULL,                      -- counted by the resolvers, in all
    source INTEGER NOT NULL,                       -- of the first report
    added_at INTEGER NOT NULL,                     -- time of the first report
    counted INTEGER NOT NULL DEFAULT 0,            -- part of `queries` that its case has
    case_id INTEGER,                               -- NULL until it is checked
    score REAL,                                    -- 0 to 1; NULL: no model ran
    action TEXT,                                   -- of the verdict, like `reason` and `model`
    reason TEXT,
    model TEXT,
    error TEXT                                     -- why it is dead; NULL: it is not
);
CREATE UNIQUE INDEX items_item ON items (item);
-- the items of a case, the worst first
CREATE INDEX items_case ON items (case_id, score DESC) WHERE case_id IS NOT NULL;
-- the list of dead items
CREATE INDEX items_dead ON items (id) WHERE error IS NOT NULL;
-- reports: all but the first report of an item; the first one stands in `items`
CREATE TABLE reports (
    item INTEGER NOT NULL,
    source INTEGER NOT NULL,
    at INTEGER NOT NULL,                           -- when it was reported
    seen_at INTEGER NOT NULL,
    raw TEXT NOT NULL,
    context TEXT NOT NULL,
    queries INTEGER NOT NULL,                      -- of this report
    PRIMARY KEY (item, source)
) WITHOUT ROWID;
-- queue: items that triage has to check
CREATE TABLE queue (
    item INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,                       -- of the item, for `sources.waiting`
    bulk INTEGER NOT NULL,                         -- 0: urgent, comes first
    due REAL NOT NULL,                             -- not before; a lease or a retry sets it
    taken_at REAL,                                 -- start of the lease; NULL: not taken
    takes INTEGER NOT NULL DEFAULT 0,              -- how often it was taken
    failures INTEGER NOT NULL DEFAULT 0            -- how often its check failed
);
-- the next items to check, urgent ones first
CREATE INDEX queue_due ON queue (bulk, due, item);
-- cases: one row per owner
CREATE TABLE cases (
    id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL,                            -- the worst of its items
    name TEXT NOT NULL,                            -- host of `item`
    state TEXT NOT NULL,                           -- a `State`
    action TEXT,                                   -- the `Act` in force; NULL: none
    decision INTEGER,                              -- number of the decision behind `action`
    score REAL,                                    -- the worst of its items' scores
    place REAL NOT NULL,                           -- minus the priority: the first comes first
    pattern TEXT,                                  -- of its campaign, see `campaigns`
    address TEXT,                                  -- of its name in the DNS; NULL: none
    address_until INTEGER,                         -- when it is looked up again; NULL: never was
    queries INTEGER NOT NULL,                      -- sum over its items
    items INTEGER NOT NULL,                        -- number of its items
    seen_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,                   -- last change of any kind
    decided_at INTEGER,                            -- of the last decision
    recheck_at INTEGER,                            -- when it opens again by itself
    holder TEXT,                                   -- who has leased it
    lease_expires_at INTEGER                       -- then it is open again
);
-- the next cases of a state; also leasing
CREATE INDEX cases_queue ON cases (state, place, id);
-- all cases by priority
CREATE INDEX cases_place ON cases (place, id);
-- the newest of a state
CREATE INDEX cases_newest ON cases (state, id);
-- a campaign, and whether a pattern is shared
CREATE INDEX cases_pattern ON cases (pattern, place, id) WHERE pattern IS NOT NULL;
-- leases that have expired
CREATE INDEX cases_lease ON cases (lease_expires_at) WHERE state = 'leased';
-- cases that are due again
CREATE INDEX cases_recheck ON cases (recheck_at) WHERE recheck_at IS NOT NULL;
-- a campaign by address
CREATE INDEX cases_address ON cases (address, place, id) WHERE address IS NOT NULL;
-- names to look up, the most urgent first
CREATE INDEX cases_unaddressed ON cases (place, id)
    WHERE address_until IS NULL AND state IN ('open', 'leased');
-- look-ups that are out of date
CREATE INDEX cases_address_until ON cases (address_until) WHERE address_until IS NOT NULL;
-- case_sources: which sources have reported a case
CREATE TABLE case_sources (
    source INTEGER NOT NULL,
    case_id INTEGER NOT NULL,
    place REAL NOT NULL,                           -- the case's
    PRIMARY KEY (source, case_id)
) WITHOUT ROWID;
-- cases of a source by priority
CREATE INDEX case_sources_place ON case_sources (source, place, case_id);
-- sources of a case
CREATE INDEX case_sources_case ON case_sources (case_id);
-- decisions: one row per decision, also about several cases or a rule without one
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY,
    step TEXT NOT NULL,                            -- a `Step`
    who TEXT NOT NULL,                             -- token or account that decided
    act TEXT NOT NULL,                             -- an `Act`
    category TEXT NOT NULL,
    reason TEXT NOT NULL,                          -- that person's
    scope TEXT NOT NULL,                           -- one of `SCOPES`
    expires_at INTEGER,                            -- of its rules; NULL: no end
    key TEXT,                                      -- of the request, so that a retry finds it
    begun_at INTEGER NOT NULL,                     -- before the policy log was asked
    done_at INTEGER,                               -- in force, aborted or undone
    serial INTEGER,                                -- batch that made its rules
    undo_serial INTEGER,                           -- batch that withdrew them
    approver TEXT,
    remark TEXT NOT NULL DEFAULT '',               -- why it waits, was refused or undone
    source TEXT NOT NULL DEFAULT '',               -- of the claims that it makes
    appeal INTEGER NOT NULL DEFAULT 0,             -- that it was made for
    UNIQUE (who, key)
);
-- what waits for approval or is unfinished
CREATE INDEX decisions_step ON decisions (step, number);
-- what was decided for an appeal
CREATE INDEX decisions_appeal ON decisions (appeal, number) WHERE appeal > 0;
-- decided: the cases of a decision, and its rules
CREATE TABLE decided (
    number INTEGER NOT NULL,
    case_id INTEGER NOT NULL,
    before TEXT NOT NULL,                          -- the case's state
    credit TEXT,                                   -- sources that were right or wrong, JSON
    rules TEXT NOT NULL DEFAULT '[]',              -- keys of claims, JSON; case 0: of none
    PRIMARY KEY (number, case_id)
) WITHOUT ROWID;
-- decisions about a case
CREATE INDEX decided_case ON decided (case_id, number);
-- events: the history of a case
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    case_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,                             -- '': the server
    what TEXT NOT NULL,                            -- see `model.Event`
    text TEXT NOT NULL
);
-- history in order
CREATE INDEX events_case ON events (case_id, id);
-- submissions: one row per submission
CREATE TABLE submissions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,                       -- unguessable
    item INTEGER NOT NULL,                         -- items.id
    source TEXT NOT NULL,                          -- name of a token, or (public)
    public INTEGER NOT NULL,                       -- 1: sent without a token
    network TEXT,                                  -- of a public one, under the day's pseudonym
    comment TEXT NOT NULL,
    evidence TEXT NOT NULL,                        -- JSON: pairs of kind and text
    tlp TEXT NOT NULL,
    submitted_at INTEGER NOT NULL,
    action TEXT,                                   -- that its submitter was notified of
    decision INTEGER,                              -- its number; NULL: a rule was in force before
    decided_at INTEGER                             -- what its sender was told
);
-- to settle them when a case is decided
CREATE INDEX submissions_item ON submissions (item);
-- a reporter's own list
CREATE INDEX submissions_source ON submissions (source, number);
CREATE INDEX submissions_decision ON submissions (decision) WHERE decision IS NOT NULL;
-- webhooks: one row per webhook
CREATE TABLE webhooks (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,                       -- wh_…
    url TEXT NOT NULL,
    events TEXT NOT NULL,                          -- JSON
    secret TEXT NOT NULL,                          -- as it is: messages are signed with it
    who TEXT NOT NULL,                             -- who set it up
    created_at INTEGER NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,           -- messages that never arrived
    last_at INTEGER,                               -- of what was delivered
    error TEXT                                     -- of the last try; NULL: it did well
);
-- outbox: messages that are not delivered yet
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY,
    webhook INTEGER NOT NULL,                      -- webhooks.number
    id TEXT NOT NULL,                              -- msg_…, the same at each try
    body BLOB NOT NULL,
    at INTEGER NOT NULL,                           -- when the event happened
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL                              -- next try, not before
);
-- the next messages of a webhook
CREATE INDEX outbox_due ON outbox (webhook, due, number);
-- appeals: one row per appeal
CREATE TABLE appeals (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,                       -- that nobody guesses
    item TEXT NOT NULL,                            -- canonical
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    day INTEGER NOT NULL,                          -- of the incident, since 1970
    contact TEXT NOT NULL,                         -- for staff alone
    text TEXT NOT NULL,
    token TEXT NOT NULL,                           -- that a proof shows
    state TEXT NOT NULL,                           -- an `AppealState`
    unproven INTEGER NOT NULL DEFAULT 1,           -- proven ones come first
    added_at INTEGER NOT NULL,
    proof TEXT,                                    -- txt or file; NULL: none was seen
    proof_at INTEGER,
    decided_at INTEGER,
    who TEXT,                                      -- who decided it
    reason TEXT NOT NULL DEFAULT '',               -- for the record
    answer TEXT NOT NULL DEFAULT '',               -- for the appellant
    serial INTEGER                                 -- batch that unblocked it; NULL: none
);
-- a state's appeals, proven ones first
CREATE INDEX appeals_queue ON appeals (state, unproven, number);
-- all appeals, proven ones first
CREATE INDEX appeals_all ON appeals (unproven, number);
-- earlier appeals of an owner, and the limits
CREATE INDEX appeals_owner ON appeals (owner, number);
-- appeal_events: the history of an appeal
CREATE TABLE appeal_events (
    id INTEGER PRIMARY KEY,
    appeal INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,                             -- '': the appellant, or the server
    what TEXT NOT NULL,                            -- see `appeals.AppealEvent`
    text TEXT NOT NULL
);
-- history in order
CREATE INDEX appeal_events_appeal ON appeal_events (appeal, id);
"""
