"""What the model may do in the chain: where no rule speaks, and exactly as a rule would."""

import asyncio
import ipaddress

import dns.message
import pytest

from tests.classify import toy
from tests.plugins.scripted import FakeActiveEngine, as_answer, made, ruling
from urlguard import config
from urlguard.classify.model import Model
from urlguard.classify.policy import ActiveModels, ClassifierPolicy
from urlguard.plugins import Parts
from urlguard.plugins.clients import Client, Clients
from urlguard.plugins.guard import Guard

ASKED = ["A", "AAAA", "HTTPS", "SVCB", "CNAME", "ANY"]
NOT_ASKED = ["MX", "TXT", "NS", "SOA", "SRV", "DS", "DNSKEY", "CAA", "PTR", "TYPE65280"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The toy model in use."""
    folder = tmp_path_factory.mktemp("models")
    toy.write(folder)
    return ActiveModels(Model.open(folder, "name", reader=toy.read))


def guard(active, models, mode="block", answer="sinkhole", segments=()):
    """A guard with a model."""
    options = config.Guard(answer=answer, block_ttl_s=42)
    return Guard(active, options, {"feed:court"}, segments, ClassifierPolicy(models), mode)


def client(segment=None):
    """A client, of a segment or of none."""
    who = Client("192.0.2.99", ipaddress.IPv4Address("192.0.2.99"))
    who.segment = segment
    return who


@pytest.mark.parametrize("answer", ["sinkhole", "zero", "nodata", "nxdomain", "refused"])
@pytest.mark.parametrize("qtype", ASKED)
def test_the_answer_is_that_of_a_listed_name(models, query, answer, qtype):
    """
    Octet by octet: nothing tells a prober whether a list or the model caught the name.
    """
    listed = guard(FakeActiveEngine({toy.BAD: ruling()}), models, answer=answer)
    modelled = guard(FakeActiveEngine(), models, answer=answer)
    one, other = query(toy.BAD, qtype), query(toy.BAD, qtype)
    theirs, ours = listed.on_query(one), modelled.on_query(other)
    assert ours.wire[2:] == theirs.wire[2:]
    assert (ours.source, ours.depends_on, ours.ede) == (
        theirs.source,
        theirs.depends_on,
        theirs.ede,
    )
    assert ours.ruling.sources == ("classifier",)


@pytest.mark.parametrize("qtype", NOT_ASKED)
def test_other_types_are_not_judged(models, query, qtype):
    """
    Nobody visits a site by asking for its mail servers.
    """
    plugin = guard(FakeActiveEngine(), models)
    for name in (toy.BAD, toy.GREY, toy.GOOD):
        assert plugin.on_query(query(name, qtype)) is None
    assert not plugin.classifier.counters


@pytest.mark.parametrize("answer", ["sinkhole", "nxdomain"])
@pytest.mark.parametrize("qtype", NOT_ASKED)
def test_of_a_name_that_is_blocked_every_type_is(models, query, qtype, answer):
    """
    Once it is known, at no cost, and octet by octet as for a listed name; only where it is blocked.
    """
    listed = guard(FakeActiveEngine({toy.BAD: ruling()}), models, answer=answer)
    plugin = guard(FakeActiveEngine(), models, answer=answer)
    for name in (toy.BAD, toy.GREY, toy.GOOD):
        plugin.on_query(query(name))
    counted = dict(plugin.classifier.counters)
    one, other = query(toy.BAD, qtype), query(toy.BAD, qtype)
    assert plugin.on_query(one).wire[2:] == listed.on_query(other).wire[2:]
    for name in (toy.GREY, toy.GOOD):
        x = query(name, qtype)
        assert plugin.on_query(x) is None
        assert x.ruling is None
    assert plugin.classifier.counters == counted
    lenient = guard(FakeActiveEngine(), models, mode="review")
    lenient.classifier.adopt(plugin.classifier)
    assert lenient.on_query(query(toy.BAD, qtype)) is None


def test_rules_come_first(models, query):
    """
    What somebody decided stands, whatever the model thinks; it is not even asked.
    """
    active = FakeActiveEngine({toy.BAD: ruling("allow"), toy.GREY: ruling("block", "feed:x")})
    plugin = guard(active, models)
    assert plugin.on_query(query(toy.BAD)) is None
    assert plugin.on_query(query(toy.GREY)).ruling.sources == ("feed:x",)
    assert not plugin.classifier.counters


def test_a_decision_wins_on_the_next_query(models, query):
    """
    A name that the model blocks resolves once it is allowed, and is blocked again after that.
    """
    active = FakeActiveEngine()
    plugin = guard(active, models)
    assert plugin.on_query(query(toy.BAD)) is not None
    active.rulings[toy.BAD] = ruling("allow", "operator")
    assert plugin.on_query(query(toy.BAD)) is None
    del active.rulings[toy.BAD]
    assert plugin.on_query(query(toy.BAD)) is not None


def test_the_grey_zone_is_answered_and_counted(models, query):
    """
    The query passes, its answer carries the ruling, and the suspect is kept.
    """
    plugin = guard(FakeActiveEngine(), models)
    x = query(toy.GREY)
    assert plugin.on_query(x) is None
    found = plugin.on_answer(x, as_answer(made(x, f"{toy.GREY}. 60 A 192.0.2.7")))
    assert (found.ruling.action, found.ruling.sources) == ("review", ("classifier",))
    assert [s.name for s in plugin.classifier.suspects.top()] == [toy.GREY]


def test_mode_review_blocks_nothing(models, query):
    """
    The name passes, marked for review.
    """
    plugin = guard(FakeActiveEngine(), models, mode="review")
    x = query(toy.BAD)
    assert plugin.on_query(x) is None
    assert x.ruling.action == "review"


def test_a_paused_server_blocks_nothing(models, query):
    """
    A pause of all filtering is for the model too.
    """
    active = FakeActiveEngine()
    active.engine.paused = True
    plugin = guard(active, models)
    assert plugin.on_query(query(toy.BAD)) is None
    # Whoever paused it may want to know.
    assert [(s.name, s.action) for s in plugin.classifier.suspects.top()] == [(toy.BAD, "block")]


def segment(**keys):
    """A segment."""
    return config.Segment(name="s", networks=(ipaddress.ip_network("192.0.2.0/24"),), **keys)


@pytest.mark.parametrize(
    ("keys", "mode", "action"),
    [
        ({}, "block", "block"),
        ({}, "review", "review"),
        ({"classify": "review"}, "block", "review"),
        ({"classify": "off"}, "block", None),
        ({"classify": "block"}, "off", "block"),
        ({"filter": False}, "block", None),
        ({"filter": False, "classify": "block"}, "block", None),
        ({"categories": ("phishing",)}, "block", None),
        ({"categories": ("fraud",)}, "block", "block"),
        ({"pass_categories": ("fraud",)}, "block", None),
    ],
)
def test_segments(models, query, keys, mode, action):
    """
    A segment's own mode counts, and its categories do: the model's is fraud.
    """
    own = segment(**keys)
    plugin = guard(FakeActiveEngine(), models, mode=mode, segments=[own])
    x = query(toy.BAD, who=client(own))
    found = plugin.on_query(x)
    assert (found is not None) == (action == "block")
    assert (x.ruling is not None) == (action == "review")


@pytest.mark.parametrize(
    ("keys", "scored"),
    [
        ({"filter": False}, False),
        ({"filter": False, "classify": "block"}, False),
        ({"categories": ("phishing",)}, False),
        ({"pass_categories": ("fraud",)}, False),
        ({"classify": "off"}, False),
        ({"pass_categories": ("fraud",), "classify": "block"}, True),
        ({"pass_categories": ("fraud",), "classify": "review"}, True),
        ({"categories": ("fraud",)}, True),
        ({"pass_categories": ("phishing",)}, True),
    ],
)
def test_where_its_word_is_not_in_force_no_name_is_scored(models, query, keys, scored):
    """
    Unless the segment asks for it by a mode of its own.
    """
    own = segment(**keys)
    plugin = guard(FakeActiveEngine(), models, segments=[own])
    plugin.on_query(query(toy.BAD, who=client(own)))
    assert bool(plugin.classifier.counters) == scored


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"filter": False}, True),
        ({"pass_categories": ("fraud",)}, True),
        ({"pass_categories": ("fraud",), "classify": "block"}, True),
        ({"classify": "off"}, False),
    ],
)
def test_what_is_let_through_is_kept(models, query, keys, kept):
    """
    A name that the model is known to block, and that a segment lets pass, is a suspect.
    """
    own = segment(**keys)
    plugin = guard(FakeActiveEngine(), models, segments=[own])
    assert plugin.on_query(query(toy.BAD)) is not None
    assert len(plugin.classifier.suspects) == 0
    assert plugin.on_query(query(toy.BAD, who=client(own))) is None
    found = [(s.name, s.action, s.asked) for s in plugin.classifier.suspects.top()]
    assert found == ([(toy.BAD, "block", 1)] if kept else [])


def test_names_that_an_answer_leads_to_are_judged_by_rules_alone(models, query):
    """
    A target that looks bad breaks no site; one that is listed does.
    """
    active = FakeActiveEngine()
    plugin = guard(active, models)
    x = query(toy.GOOD)
    assert plugin.on_query(x) is None
    answer = as_answer(made(x, f"{toy.GOOD}. 60 CNAME {toy.BAD}.", f"{toy.BAD}. 60 A 192.0.2.7"))
    assert plugin.on_answer(x, answer).source != "guard"
    active.change(**{toy.BAD.replace(".", "_"): ruling()})
    assert plugin.on_answer(x, answer).source == "guard"


@pytest.mark.parametrize(
    ("mode", "own", "there"),
    [("off", None, False), ("off", "off", False), ("off", "block", True), ("review", "off", True)],
)
def test_where_no_model_may_do_anything_there_is_no_judge(mode, own, there):
    """
    So it costs nothing: the judge is left out of the packet path.
    """
    whole = config.Config(classify=config.Classify(mode=mode), segment=(segment(classify=own),))
    loop = asyncio.new_event_loop()
    try:
        parts = Parts(whole, FakeActiveEngine(), loop, Clients(whole))
        plugin = Guard.from_config(whole.guard, parts)
    finally:
        loop.close()
    assert (plugin.classifier is not None) == there


def test_a_new_configuration_keeps_what_was_found(models, query):
    """
    Suspects and counters go on in the guard that takes this one's place.
    """
    old, new = guard(FakeActiveEngine(), models), guard(FakeActiveEngine(), models, mode="review")
    old.on_query(query(toy.GREY))
    new.adopt(old)
    new.on_query(query(toy.GREY))
    assert [s.asked for s in new.classifier.suspects.top()] == [2]
    got = dns.message.from_wire(old.on_query(query(toy.BAD)).wire)
    assert got.answer
    assert new.on_query(query(toy.BAD)) is None
