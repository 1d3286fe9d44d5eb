"""The policy log: batches, claims, effects."""

import subprocess
import sys
import time

import pytest

from tests.logs import open_file
from urlguard.errors import PolicyError
from urlguard.policy import log as policy_log
from urlguard.policy.model import Change
from urlguard.verdict import decode

EVIL = "subtree evil.example"


def effects(batch):
    """What a batch changed for the world: key, action before, action after."""
    found = []
    for row in batch.effects:
        was, now = decode(row.before, row.key), decode(row.after, row.key)
        found.append((row.key, was and was.action, now and now.action))
    return found


def counts(log):
    """Rows in the three tables."""
    with log.store.reading():
        claims = sum(1 for _ in log.store.starts_and_ends())
        return log.serial, claims, log.store.count_effects(0)


def test_a_batch_has_one_serial_however_many_rules_it_brings(log, say):
    """
    Serials count batches, not rules, and every effect carries its batch's serial.
    """
    first = say("feed:a", *(f"block domain n{i}.example" for i in range(100)))
    second = say("operator", "allow domain n1.example")
    assert (first.serial, first.claims, len(first.effects)) == (1, 100, 100)
    assert (second.serial, second.claims, len(second.effects)) == (2, 1, 1)
    assert {row.serial for row in first.effects} == {1}
    assert log.serial == 2


@pytest.mark.parametrize(
    "claims",
    [
        [],
        [f"block {EVIL}"],
        [f"block {EVIL}", "block url evil.example/a"],
        ["end subtree other.example"],
    ],
    ids=["nothing", "said already", "all said already", "withdrawing what was never said"],
)
def test_what_changes_nothing_writes_nothing(log, say, claims):
    """
    A batch whose claims all stand already is None: no serial, no row.
    """
    say("feed:a", f"block {EVIL}", "block url evil.example/a")
    before = counts(log)
    assert say("feed:a", *claims) is None
    assert counts(log) == before


def test_a_second_source_is_a_claim_without_an_effect(log, say):
    """
    Another feed that says the same of a rule is remembered, and nothing changes for the world.
    """
    say("feed:a", f"block {EVIL}")
    batch = say("feed:b", f"block {EVIL}")
    assert (batch.claims, batch.effects) == (1, [])
    assert log.ruling(EVIL).sources == ("feed:a", "feed:b")
    assert log.ruling(EVIL).serial == 1  # in force since then
    assert effects(say("feed:a", f"end {EVIL}")) == []
    assert log.ruling(EVIL).sources == ("feed:b",)
    assert effects(say("feed:b", f"end {EVIL}")) == [(EVIL, "block", None)]


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ([("feed:a", "block")], "block"),
        ([("feed:a", "review"), ("feed:b", "block")], "block"),
        ([("feed:a", "block"), ("feed:b", "allow")], "allow"),
        ([("feed:a", "allow"), ("operator", "block")], "block"),
        ([("feed:a", "block"), ("operator", "review")], "review"),
        ([("operator", "block"), ("analyst:eve", "allow")], "allow"),
        ([("feed:a", "block"), ("feed:b", "except")], "block"),
        ([("feed:a", "except")], "except"),
    ],
)
def test_claims_at_one_key_are_weighed(say, log, claims, wanted):
    """
    People beat feeds; within a tier allow beats block beats review, in whatever order they came.
    """
    for source, action in claims:
        say(source, f"{action} {EVIL}")
    forward = log.ruling(EVIL)
    for source, _ in claims:
        say(source, f"end {EVIL}")
    assert log.ruling(EVIL) is None
    for source, action in reversed(claims):
        say(source, f"{action} {EVIL}")
    assert forward.action == log.ruling(EVIL).action == wanted
    assert forward.sources == log.ruling(EVIL).sources


def test_a_change_of_category_or_action_is_an_effect(say, log):
    """
    A claim made anew with another category or action ends the old one and is seen outside.
    """
    say("feed:a", f"block {EVIL}", category="fraud")
    batch = say("feed:a", f"block {EVIL}", category="phishing")
    assert effects(batch) == [(EVIL, "block", "block")]
    assert log.ruling(EVIL).category == "phishing"
    assert effects(say("feed:a", f"review {EVIL}")) == [(EVIL, "block", "review")]
    spans = [(c.from_serial, c.to_serial, c.category) for c in log.store.history(EVIL)]
    assert spans == [(1, 2, "fraud"), (2, 3, "phishing"), (3, None, "fraud")]


def test_new_evidence_is_a_claim_without_an_effect(say, log):
    """
    Evidence and expiry of a claim may change; the world sees nothing of it.
    """
    say("operator", f"block {EVIL}")
    change = Change(EVIL, "block", "fraud", "ticket 7", int(time.time()) + 60)
    batch = log.commit("operator", [change], actor="test", reason="")
    assert (batch.claims, batch.effects) == (1, [])
    assert log.store.history(EVIL)[-1].evidence == "ticket 7"


def test_an_operators_word_hides_feeds_until_it_is_withdrawn(say):
    """
    Withdrawing a decision brings back what feeds say.
    """
    say("feed:a", f"block {EVIL}")
    assert effects(say("operator", f"allow {EVIL}")) == [(EVIL, "block", "allow")]
    assert say("feed:b", f"block {EVIL}").effects == []  # dominated
    assert effects(say("operator", f"end {EVIL}")) == [(EVIL, "allow", "block")]


def test_expiry_ends_claims_whose_time_has_come(log):
    """
    One sweep makes a batch for each source, ends what is due and nothing else.
    """
    now = int(time.time())
    rows = {
        "operator": [("domain a.example", now - 5), ("domain b.example", now + 500)],
        "feed:a": [("domain c.example", now), ("domain d.example", None)],
    }
    for source, claims in rows.items():
        changes = [Change(rule, "block", "fraud", "", when) for rule, when in claims]
        log.commit(source, changes, actor="test", reason="")
    assert log.store.next_expiry() == now - 5
    batches = log.expire(now)
    assert sorted(effects(batch) for batch in batches) == [
        [("domain a.example", "block", None)],
        [("domain c.example", "block", None)],
    ]
    assert log.store.next_expiry() == now + 500
    assert log.expire(now) == []
    assert [log.store.count(source) for source in rows] == [1, 1]
    assert log.verify() is None


def test_a_sweep_is_bounded(log, monkeypatch):
    """
    A sweep ends at most `EXPIRY_BATCH` claims; the next one goes on.
    """
    monkeypatch.setattr(policy_log, "EXPIRY_BATCH", 3)
    changes = [Change(f"domain n{i}.example", "block", "", "", 1) for i in range(7)]
    log.commit("operator", changes, actor="test", reason="")
    assert [sum(b.claims for b in log.expire()) for _ in range(4)] == [3, 3, 1, 0]


LONG = "x" * 3000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("domain a.example", "destroy"), "must be one of"),
        (Change("domain a.example", "block", "two\nlines"), "none of control"),
        (Change("domain a.example", "block", "a\tb"), "none of control"),
        (Change("domain a\x7f.example", "block"), "none of control"),
        (Change("domain a.example", "block", "", LONG), "at most 2048"),
        (Change("domain a.example", "block", "", "half of a pair \udcff"), "none of control"),
        (Change("domain b.example", "block", "again"), "two changes"),
    ],
)
def test_a_bad_change_refuses_the_whole_batch(log, change, said):
    """
    Nothing of a batch is applied if one of its changes is wrong, and the error says what is.
    """
    good = Change("domain b.example", "block")
    with pytest.raises(PolicyError, match=said):
        log.commit("operator", [good, change], actor="test", reason="")
    assert counts(log) == (0, 0, 0)


@pytest.mark.parametrize("field", ["source", "actor", "reason"])
@pytest.mark.parametrize("text", [LONG, "two\nlines", "\udc80"])
def test_texts_of_a_batch_are_bounded(log, field, text):
    """
    Source, actor and reason are single lines of bounded length.
    """
    fields = {"source": "operator", "actor": "test", "reason": "", field: text}
    change = Change("domain b.example", "block")
    with pytest.raises(PolicyError, match=field):
        log.commit(fields.pop("source"), [change], **fields)
    assert counts(log) == (0, 0, 0)


@pytest.mark.parametrize("step", ["comparing", "writing claims", "writing effects", "sealing"])
def test_an_error_on_the_way_leaves_nothing(log, say, step):
    """
    Whatever fails in whichever step, the log is as before, and the next batch works.
    """
    say("feed:a", f"block {EVIL}")
    before = counts(log)

    def fail(words):
        if words == step:
            raise RuntimeError(step)

    changes = [Change(EVIL, "block", "other"), Change("domain x.example", "block")]
    with pytest.raises(RuntimeError, match=step):
        log.commit("feed:a", changes, actor="test", reason="", progress=fail)
    assert counts(log) == before
    assert log.verify() is None
    assert say("feed:b", f"allow {EVIL}").serial == 2


def test_writing_nests(log, say):
    """
    A commit within a transaction is part of it: an error later on takes it back too.
    """

    def two_commits():
        with log.store.writing():
            say("feed:a", f"block {EVIL}")
            log.store.set_quarantined("a", [("domain b.example", "popular")])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        two_commits()
    assert counts(log) == (0, 0, 0)
    assert log.store.quarantined("a") == []


def test_long_batches_are_weighed_like_short_ones(log, say):
    """
    Above a size a batch reads whole sources instead of looking keys up; the outcome is the same.
    """
    rules = [f"domain n{i}.example" for i in range(6000)]
    say("feed:a", *(f"block {r}" for r in rules[:4000]))
    say("operator", "allow domain n1.example")
    batch = say("feed:b", *(f"block {r}" for r in rules))
    assert batch.claims == 6000
    assert [row.key for row in batch.effects] == sorted(rules[4000:])
    batch = say("feed:a", *(f"end {r}" for r in rules[:4000]))
    assert (batch.claims, batch.effects) == (4000, [])
    batch = say("feed:b", *(f"end {r}" for r in rules))
    assert len(batch.effects) == 5999  # all but the operator's


WRITER = """
import sys
from pathlib import Path
from urlguard.policy.location import open_file
from urlguard.policy.model import Change
log = open_file(Path(sys.argv[1]))
for i in range(25):
    log.commit(sys.argv[2], [Change(f"domain n{i}.example", "block")], actor="t", reason="")
log.close()
"""


def test_two_processes_write_one_chain(database):
    """
    Processes that write at the same time, also while the file is made, take turns.
    """
    sources = ["feed:a", "feed:b", "operator"]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(database), s]) for s in sources]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    log = open_file(database, read_only=True)
    assert (log.serial, [log.store.count(s) for s in sources]) == (75, [25, 25, 25])
    assert log.verify() is None
    # Every name came into force for feeds at most once, and for the operator at most once.
    keys = [row.key for row in log.store.effects()]
    assert all(1 <= keys.count(f"domain n{i}.example") <= 2 for i in range(25))
    log.close()


def test_another_process_commits_are_noticed(database, log, say):
    """
    `change_token` moves with other connections' commits and not with our own.
    """
    before = log.store.change_token()
    say("operator", f"block {EVIL}")
    assert log.store.change_token() == before
    other = open_file(database)
    other.commit("feed:a", [Change("domain x.example", "block")], actor="t", reason="")
    other.close()
    assert log.store.change_token() != before


def test_reading_is_of_one_serial(database, log, say):
    """
    What is read within one transaction does not see a commit that comes in between.
    """
    say("feed:a", f"block {EVIL}")
    reader = open_file(database, read_only=True)
    with reader.store.reading():
        assert reader.serial == 1
        say("feed:a", "block domain x.example")
        assert reader.serial == 1
        assert len(list(reader.rulings())) == 1
    assert reader.serial == 2
    reader.close()


def test_changes_since_a_serial_name_each_key_once(say, log):
    """
    Of several changes at one key the last counts; a key that is gone is there with None.
    """
    say("feed:a", f"block {EVIL}", "block domain x.example")
    say("feed:a", f"end {EVIL}", "review domain x.example")
    say("operator", f"allow {EVIL}")
    say("operator", f"end {EVIL}")
    got = {key: decode(after, key) for key, after, _ in log.store.changes(1)}
    assert got[EVIL] is None
    assert got["domain x.example"].action == "review"
    assert len(got) == 2
    assert list(log.store.changes(4)) == []
