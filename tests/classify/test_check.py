"""`urlguard check` with models: who decides, what is scored, and how a stream is answered."""

import hashlib
import json

import pytest

from tests.classify import toy
from urlguard import check, config, wellknown
from urlguard.blocklist import snapshot
from urlguard.classify.model import Model
from urlguard.classify.policy import ActiveModels, ClassifierPolicy
from urlguard.engine import Engine
from urlguard.verdict import Ruling

POPULAR = next(iter(wellknown.popular()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    toy.write(folder)
    toy.write(folder, "url-2026-11-24")
    return folder


@pytest.fixture(scope="module")
def engine():
    """One name is listed, and one allowed."""
    engine = Engine(snapshot.nothing())
    rules = {
        "subtree listed.com": Ruling("block", "scam", ("feed:a",), 1, "subtree", "listed.com"),
        "domain pay-1.com": Ruling("allow", "", ("operator",), 1, "domain", "pay-1.com"),
    }
    engine.overlay.apply(rules.items(), 1)
    return engine


def classifier(folder, mode="block", **keys):
    """Models over the toy features."""
    made = config.Config(classify=config.Classify(mode=mode, models=folder))
    return check.Classifier(made, reader=toy.read, **keys)


def said(engine, text, by):
    """Action, reason, and whether there is a score."""
    found = check.inspect(engine, text, by)
    assert (found["score"] is None) == (found["model"] is None)
    return found["action"], found["reason"], found["score"] is not None


BLOCKED, REVIEWED = ("block", "classifier", True), ("review", "classifier", True)
CASES = [
    # input, in mode block, with --score
    (toy.BAD, BLOCKED, BLOCKED),
    (toy.GREY, REVIEWED, REVIEWED),
    (toy.GOOD, ("none", "none", True), ("none", "none", True)),
    ("listed.com", ("block", "blocklist", False), ("block", "blocklist", True)),
    ("pay-1.com", ("allow", "allowlist", False), ("allow", "allowlist", True)),
    (f"pay-1.{POPULAR}", ("allow", "popular", False), ("allow", "popular", True)),
    ("brand-pay.com", ("none", "none", True), ("none", "none", True)),
    ("_x.pay-1-2.com", ("none", "none", False), ("none", "none", True)),
    ("pay-1-2.lan", ("none", "none", False), ("none", "none", True)),
    ("http://x.net/pay-1-2", BLOCKED, BLOCKED),
    ("http://9.9.9.9/pay-1-2", BLOCKED, BLOCKED),
    ("http://[2620:fe::fe]/pay-1-2", BLOCKED, BLOCKED),
    ("http://garden.org/", ("none", "none", True), ("none", "none", True)),
    ("http://listed.com/pay-1", ("block", "blocklist", False), ("block", "blocklist", True)),
    (f"http://{POPULAR}/pay-1-2", ("allow", "popular", False), ("allow", "popular", True)),
    ("192.0.2.1", ("none", "none", False), ("none", "none", False)),
    ("[2001:db8::1]", ("none", "none", False), ("none", "none", False)),
    ("pay 1..com", ("none", "none", False), ("none", "none", False)),
    ("", ("none", "none", False), ("none", "none", False)),
]


@pytest.mark.parametrize(("text", "usual", "scored"), CASES, ids=[c[0] for c in CASES])
def test_who_decides(engine, folder, text, usual, scored):
    """
    A rule or popularity first, then the model; --score tells what it thinks of every item.
    """
    assert said(engine, text, classifier(folder)) == usual
    assert said(engine, text, classifier(folder, score=True)) == scored
    assert said(engine, text, None) == (*usual[:2], False) or usual[1] == "classifier"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://10.0.0.1/pay-1-2", "address"),
        ("http://127.0.0.1/pay-1-2", "address"),
        ("http://169.254.1.1/pay-1-2", "address"),
        ("http://100.64.0.1/pay-1-2", "address"),
        ("http://192.0.2.1/pay-1-2", "address"),
        ("http://224.0.0.1/pay-1-2", "address"),
        ("http://0x7f.1/pay-1-2", "address"),
        ("http://[::1]/pay-1-2", "address"),
        ("http://[fe80::1]/pay-1-2", "address"),
        ("http://[fd00::1]/pay-1-2", "address"),
        ("http://[::ffff:10.0.0.1]/pay-1-2", "address"),
        ("http://[64:ff9b::a00:1]/pay-1-2", "address"),
        ("http://localhost/pay-1-2", "suffix"),
        ("http://printer.lan/pay-1-2", "suffix"),
        ("http://shop.onion/pay-1-2", "special"),
        ("http://www.example.com/pay-1-2", "special"),
        ("http://1.home.arpa/pay-1-2", "special"),
        ("http://_x.pay.com/pay-1-2", "spelling"),
        ("http://x.corp.net/pay-1-2", "own_zone"),
        ("http://a%20b.com/pay-1-2", "host"),
        ("_x.pay-1-2.com", "spelling"),
        ("pay-1-2.lan", "suffix"),
        ("pay-1-2.corp.net", "own_zone"),
    ],
)
def test_what_is_not_of_the_public_internet_is_not_judged(engine, folder, text, why):
    """
    Names and URLs by one rule; no score, and ``why`` says why, with --score beside the reasons.
    """
    made = config.Config(
        classify=config.Classify(models=folder), forward=config.Forward(zones={"corp.net": ()})
    )
    assert said(engine, text, check.Classifier(made, reader=toy.read)) == ("none", "none", False)
    found = check.inspect(engine, text, check.Classifier(made, reader=toy.read, why=True))
    assert (found["score"], found["error"]) == (None, None)
    (entry,) = found["why"]
    assert (entry["feature"], entry["value"], entry["contribution"]) == ("not_judged", why, 0.0)
    assert all(entry["words"][language] for language in ("en", "zh"))
    by = check.Classifier(made, reader=toy.read, score=True)
    assert said(engine, text, by) == ("none", "none", True)


def test_who_is_judged_needs_no_word(engine, folder):
    """
    Nor does what a rule decides, or a model that is off.
    """
    for text in (toy.GOOD, "listed.com", POPULAR, "http://9.9.9.9/"):
        by = check.Classifier(config.Config(), reader=toy.read, why=True)
        assert "not_judged" not in [w["feature"] for w in check.inspect(engine, text, by)["why"]]
    off = config.Config(classify=config.Classify(mode="off"))
    assert check.inspect(engine, "a.lan", check.Classifier(off, why=True))["why"] == []


@pytest.mark.parametrize("mode", ["block", "review"])
def test_it_says_what_the_resolver_does(engine, tmp_path, mode):
    """
    Customers of popular services, brands, names apart, and names of all sorts: one verdict.
    """
    hosts = ["pages.dev", POPULAR]
    tables = json.dumps({"hosting": hosts}).encode()
    same = {"block_at": 0.9, "review_at": 0.2}
    changes = {"thresholds": {"own": same, "hosting": same}}
    toy.write(tmp_path, tables_sha256=hashlib.sha256(tables).hexdigest(), **changes)
    (tmp_path / "name-2026-11-24.tables").write_bytes(tables)
    made = config.Config(classify=config.Classify(mode=mode, models=tmp_path))
    by = check.Classifier(made, reader=toy.read)
    resolver = ClassifierPolicy(ActiveModels(Model.open(tmp_path, "name", reader=toy.read)))
    texts = [text for text, _, _ in CASES if not text.startswith("http") and text]
    for label in toy.names(150, seed=6):
        first = label.partition(".")[0].strip("-") or "x"
        texts += [label, *(f"{first}.{zone}" for zone in (*hosts, "gstatic.com", "brand-pay.com"))]
    actions = set()
    for text in texts:
        found = check.inspect(engine, text, by)
        if found["kind"] != "name":
            continue
        ruling = engine.decide(found["canonical"])
        if ruling is None:
            ruling = resolver.ruling(found["canonical"], mode)
        action = "none" if ruling is None else ruling.action
        said = "none" if found["reason"] == "popular" else found["action"]
        assert (text, said) == (text, action)
        actions.add((said, found["reason"], found["registrable"] == POPULAR))
    assert ("review", "classifier", True) in actions
    assert ("allow", "popular", True) not in actions
    assert ("none", "popular", True) in actions
    assert (mode, "classifier", False) in actions


@pytest.mark.parametrize(
    ("mode", "score", "expected"),
    [
        ("review", False, REVIEWED),
        ("off", False, ("none", "none", False)),
        ("off", True, ("none", "none", True)),
    ],
)
def test_modes(engine, folder, mode, score, expected):
    """
    A model that may only review blocks nothing, one that may do nothing is only asked by --score.
    """
    assert said(engine, toy.BAD, classifier(folder, mode, score=score)) == expected


def test_the_model_is_named_by_its_digest(engine, folder):
    """
    Enough to replay the verdict.
    """
    by = classifier(folder)
    name = check.inspect(engine, toy.BAD, by)["model"]
    assert name.startswith("name-2026-11-24@")
    url = check.inspect(engine, "http://x.net/pay-1-2", by)["model"]
    assert url.startswith("url-2026-11-24@")
    assert len(url.partition("@")[2]) == 12


def test_a_stream_says_what_single_items_do(engine, folder):
    """
    Whatever the pieces in which it comes, each line has the object that it has alone, in order.
    """
    texts = [text for text, _, _ in CASES] + toy.names(300, seed=5)
    data = "\n".join(texts).encode()
    by = classifier(folder, score=True)
    alone = [check.inspect(engine, text, by) for text in texts]
    for size in (7, 100, len(data)):
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        together = b"".join(check.lines(engine, pieces, by)).splitlines()
        assert [json.loads(line) for line in together] == alone


def test_a_line_that_is_too_long_keeps_its_place(engine, folder):
    """
    The lines around it are scored all the same.
    """
    long = "x" * (check.MAX_INPUT + 1)
    data = f"{toy.BAD}\n{long}\n{toy.GOOD}\n".encode()
    found = [
        json.loads(line)
        for line in b"".join(check.lines(engine, iter([data]), classifier(folder))).splitlines()
    ]
    assert [one["action"] for one in found] == ["block", "none", "none"]
    assert [one["kind"] for one in found] == ["name", "invalid", "name"]


def test_what_is_refused_is_said(engine, tmp_path):
    """
    A model that does not fit is not used, and no model is no trouble unless it was asked for.
    """
    toy.write(tmp_path, features_digest="0" * 64)
    by = classifier(tmp_path)
    assert said(engine, toy.BAD, by) == ("none", "none", False)
    assert ["this version computes" in why for why in by.refused] == [True]
    empty = tmp_path / "empty"
    by = classifier(empty)
    assert said(engine, toy.BAD, by) == ("none", "none", False)
    assert not by.refused
    by = classifier(empty, score=True)
    check.inspect(engine, toy.BAD, by)
    assert ["no name model there" in why for why in by.refused] == [True]


def test_a_model_is_opened_when_it_is_needed(engine, folder):
    """
    A name does not need the model of URLs, a listed name needs none.
    """
    opened = []

    def reader(kind, tables):
        opened.append(kind)
        return toy.read(kind, tables)

    made = config.Config(classify=config.Classify(models=folder))
    by = check.Classifier(made, reader=reader)
    check.inspect(engine, "listed.com", by)
    assert opened == []
    check.inspect(engine, toy.BAD, by)
    check.inspect(engine, toy.GOOD, by)
    assert opened == ["name"]
