"""Which names are judged, what is remembered, and what becomes of suspects."""

import random
import time

import pytest

from tests.classify import toy
from urlguard import config, names, special_zones, wellknown
from urlguard.classify import booster, brands, suspects
from urlguard.classify import policy as module
from urlguard.classify.model import Model
from urlguard.classify.policy import ActiveModels, ClassifierPolicy
from urlguard.classify.suspects import Suspect, SuspectMemory, merged


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two models; the second blocks nothing."""
    folder = tmp_path_factory.mktemp("models")
    toy.write(folder)
    none = {"block_at": 2.0, "review_at": 2.0}
    toy.write(folder, "name-2026-12-01", thresholds={"own": none, "hosting": none})
    return folder


@pytest.fixture
def strict(folder):
    """The model that blocks."""
    return Model.open(folder, "name", "name-2026-11-24", reader=toy.read)


@pytest.fixture
def lax(folder):
    """The model that does not."""
    return Model.open(folder, "name", "name-2026-12-01", reader=toy.read)


class Counting:
    """A model that counts how often it is asked."""

    def __init__(self, model, fails=False):
        self.asked, self._model, self._fails = [], model, fails

    def __getattr__(self, name):
        return getattr(self._model, name)

    def judge(self, name):
        self.asked.append(name)
        if self._fails:
            raise RuntimeError("no")
        return self._model.judge(name)


@pytest.mark.parametrize(
    ("name", "mode", "action"),
    [
        (toy.BAD, "block", "block"),
        (toy.BAD, "review", "review"),
        (toy.GREY, "block", "review"),
        (toy.GREY, "review", "review"),
        (toy.GOOD, "block", None),
    ],
)
def test_rulings(strict, name, mode, action):
    """
    A ruling says that the classifier said it, which model, and the category of fraud.
    """
    found = ClassifierPolicy(ActiveModels(strict)).ruling(name, mode)
    if action is None:
        assert found is None
        return
    assert found == (action, "fraud", ("classifier",), 0, "model", strict.ident, False)
    assert not found.operator


def test_without_a_model_nothing_is_judged():
    """
    No model, no ruling, nothing remembered.
    """
    policy = ClassifierPolicy(ActiveModels())
    assert policy.ruling(toy.BAD, "block") is None
    assert (len(policy), len(policy.suspects), policy.counters) == (0, 0, {})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("_pay-1.evil.com", "excluded"),
        ("pay-1._tcp.evil.com", "excluded"),
        ("pay-1.lan", "excluded"),
        ("pay-1.test", "excluded"),
        ("pay-1.internal", "excluded"),
        ("pay-1.onion", "excluded"),
        ("1.pay.2.0.192.in-addr.arpa", "excluded"),
        ("pay-1.home.arpa", "excluded"),
        ("pay-1.example.com", "excluded"),
        ("pay-1", "excluded"),
        ("com", "excluded"),
        ("co.uk", "excluded"),
        ("", "excluded"),
        ("pay 1.com", "excluded"),
        ("pay\\0461.com", "excluded"),
        ("päy-1.com", "excluded"),
        ("pay-1.com\n", "excluded"),
        ("pay-1..com", "excluded"),
        (f"{'a.' * 126}pay.com", "excluded"),
        ("pay-1.corp.evil.com", "excluded"),
        ("corp.evil.com", "excluded"),
        ("use-application-dns.net", "excluded"),
        ("brand-pay.com", "brand"),
        (f"pay-1.{next(iter(wellknown.popular()))}", "popular"),
        ("pay-1.evil.com", "block"),
        ("pay-1.co.uk", "block"),
        ("pay-1.xn--p1ai", "block"),
        ("pay-1.xn--80ak6aa92e.com", "block"),
        ("pay-1.github.io", "block"),
        ("pay-1.ck", "excluded"),
        ("pay-1.evil.ck", "block"),
    ],
)
def test_which_names_are_judged(strict, name, why):
    """
    Names of the public Internet that are neither popular nor a brand's own, and no others.
    """
    counting = Counting(strict)
    policy = ClassifierPolicy(ActiveModels(counting), ["corp.evil.com"])
    found = policy.ruling(name, "block")
    assert policy.counters == {why: 1}
    assert (found is not None) == (why == "block")
    assert bool(counting.asked) == (why == "block")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("_pay-1.evil.com", "spelling"),
        ("pay-1..com", "spelling"),
        (f"{'a.' * 126}pay.com", "spelling"),
        ("pay-1.lan", "suffix"),
        ("com", "suffix"),
        ("_x", "suffix"),
        ("pay-1.github.io.", "spelling"),
        ("pay-1.home.arpa", "special"),
        ("use-application-dns.net", "special"),
        ("pay-1.corp.evil.com", "own_zone"),
        ("corp.evil.com", "own_zone"),
        ("evil.com", None),
    ],
)
def test_why_a_name_is_not_judged(name, why):
    """
    In a word that people get a sentence for.
    """
    assert ClassifierPolicy(ActiveModels(), ["corp.evil.com"]).unfit(name) == why


def test_what_the_resolver_answers_itself_is_apart():
    """
    Whatever zone `special` knows, local or a signal, no model judges a name in it.
    """
    policy = ClassifierPolicy(ActiveModels())
    zones = [zone for group, _, _ in special_zones.ZONES for zone in group]
    signals = [zone for group in special_zones.SIGNALS.values() for zone in group]
    assert not [zone for zone in [*zones, *signals] if policy.unfit(zone) is None]
    assert not [zone for zone in zones if policy.unfit(f"pay.{zone}") is None]


def test_zones_of_ones_own_are_apart():
    """
    Zones that go to servers of one's own are read from the configuration.
    """
    whole = config.Config(
        special=config.Special(forwarded=("a.com",)), forward=config.Forward(zones={"b.com": ()})
    )
    assert module.own_zones(whole) == ["a.com", "b.com"]


def test_a_name_is_scored_once_for_each_model(strict, lax):
    """
    Judgements are remembered for the model that made them, and never used for another.
    """
    first, second = Counting(strict), Counting(lax)
    models = ActiveModels(first)
    policy = ClassifierPolicy(models)
    for _ in range(3):
        for name in (toy.BAD, toy.GREY, toy.GOOD):
            policy.ruling(name, "block")
    assert first.asked == [toy.BAD, toy.GREY, toy.GOOD]
    models.take(second, None)
    assert [policy.ruling(n, "block") for n in (toy.BAD, toy.GOOD)] == [None, None]
    models.take(first, None)
    assert policy.ruling(toy.BAD, "block").action == "block"
    assert len(first.asked) == 4
    assert len(policy) == 3


def test_memory_is_bounded_and_the_least_asked_goes_first(strict, monkeypatch):
    """
    The name that was asked for longest ago makes room.
    """
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    counting = Counting(strict)
    policy = ClassifierPolicy(ActiveModels(counting))
    for name in ("a1.com", "b1.com", "c1.com", "a1.com", "d1.com", "a1.com", "b1.com"):
        policy.ruling(name, "block")
    assert counting.asked == ["a1.com", "b1.com", "c1.com", "d1.com", "b1.com"]
    assert len(policy) == 3


def test_a_model_that_fails_blocks_nothing(strict, capsys):
    """
    An error within a model lets the name pass, is counted, and is told at most once in ten seconds.
    """
    policy = ClassifierPolicy(ActiveModels(Counting(strict, fails=True)))
    assert [policy.ruling(n, "block") for n in (toy.BAD, "pay-2.com", toy.BAD)] == [None] * 3
    assert policy.counters == {"failed": 2}
    assert capsys.readouterr().err.count("model.failed") == 1


def test_suspects_are_kept_without_what_was_blocked(strict):
    """
    In mode block the memory zone; in mode review what would have been blocked as well.
    """
    now = [1000.0]
    policy = ClassifierPolicy(ActiveModels(strict), clock=lambda: now[0])
    for name in (toy.BAD, toy.GREY, toy.GOOD):
        policy.ruling(name, "block")
    assert [s.name for s in policy.suspects.top()] == [toy.GREY]
    now[0] = 2000.0
    policy.ruling(toy.GREY, "review")
    policy.ruling(toy.BAD, "review")
    bad, memory = policy.suspects.top()
    assert bad == Suspect(toy.BAD, 0.99, 1, 2000, 2000, "block", strict.ident)
    assert memory[2:] == (2, 1000, 2000, "review", strict.ident)
    assert policy.suspects.top(1) == [bad]
    assert policy.suspects.top(-1) == []


def test_the_grey_zone_is_bounded():
    """
    The suspect with the lowest score times questions is forgotten, however new or old it is.
    """
    memory = SuspectMemory(2, clock=lambda: 5.0)
    for name, score in (("a", 0.3), ("b", 0.5), ("a", 0.3), ("c", 0.4)):
        memory.note(name, score, "review", "m")
    assert [(s.name, s.asked) for s in memory.top()] == [("c", 1), ("a", 2)]
    memory.note("d", 0.9, "review", "m")
    assert [s.name for s in memory.top()] == ["d", "a"]
    assert len(memory) == 2


def test_a_flood_of_suspects_drives_out_its_own_kind():
    """
    100,000 random names just over review_at, and neither what scores high nor what is asked often
    goes; each costs microseconds.
    """
    rng = random.Random(3)
    now = [1_800_000_000.0]
    memory = SuspectMemory(clock=lambda: now[0])
    high = [f"high-{i}.com" for i in range(1000)]
    often = [f"often-{i}.com" for i in range(1000)]
    for name in high:
        memory.note(name, 0.8, "review", "m")
    for name in often * 3:
        memory.note(name, 0.43, "review", "m")
    started = time.process_time()
    for _ in range(100_000):
        now[0] += 0.01
        memory.note(f"{rng.getrandbits(80):x}.com", 0.43 + rng.random() / 100, "review", "m")
    assert time.process_time() - started < 10
    kept = set(memory._found)
    assert kept.issuperset(high)
    assert kept.issuperset(often)
    assert len(kept) == len(memory) == len(memory._heap) == suspects.MAX_SUSPECTS


def test_old_favourites_give_way():
    """
    What was asked for often, and by nobody for weeks, does not keep out what is asked for now.
    """
    now = [1_800_000_000.0]
    memory = SuspectMemory(2, clock=lambda: now[0])
    for name in ("old", "old", "old", "old", "kept"):
        memory.note(name, 0.5, "review", "m")
    now[0] += 3 * suspects.WEEK_S
    memory.note("kept", 0.5, "review", "m")
    for name in ("new", "newer"):
        memory.note(name, 0.5, "review", "m")
    assert {s.name for s in memory.top()} == {"kept", "newer"}


def test_the_worth_of_suspects_keeps_its_order():
    """
    Whatever is asked, and in which order, it is the least that goes: as a plain sum says.
    """
    rng = random.Random(4)
    now = 1_800_000_000.0
    memory = SuspectMemory(50, clock=lambda: now)
    plain = {}  # score, times, last
    for _ in range(5000):
        now += rng.choice([0, 1, 5000])
        name = f"{int(rng.paretovariate(0.5)) % 300}.com"
        score = rng.random()
        if name not in plain and len(plain) == 50:
            del plain[min(plain, key=lambda n: worth(now, *plain[n]))]
        plain[name] = score, plain.get(name, (0, 0))[1] + 1, now
        memory.note(name, score, "review", "m")
        assert set(memory._found) == set(plain)
    assert [k.at for k in memory._heap] == list(range(50))


def worth(now, score, asked, last):
    """Of a suspect, without logarithms."""
    return score * asked * 0.5 ** ((now - last) / suspects.WEEK_S)


def test_suspects_of_several_workers_are_merged():
    """
    Counts add up, the first and last time are of all, and the newest word on it counts.
    """
    one = Suspect("a.com", 0.3, 2, 10, 20, "review", "old")
    two = Suspect("a.com", 0.4, 3, 5, 30, "block", "new")
    other = Suspect("b.com", 0.9, 1, 1, 1, "review", "new")
    assert merged([one, other, two]) == [other, Suspect("a.com", 0.4, 5, 5, 30, "block", "new")]
    assert merged([two, one]) == merged([one, two])


def test_a_shadow_is_compared_and_never_obeyed(strict, lax):
    """
    Who would block is counted, for each name once.
    """
    policy = ClassifierPolicy(ActiveModels(strict, lax))
    for name in (toy.BAD, toy.BAD, toy.GOOD):
        policy.ruling(name, "block")
    assert policy.shadowed == {"champion": 1, "neither": 1}
    policy = ClassifierPolicy(ActiveModels(lax, strict))
    assert policy.ruling(toy.BAD, "block") is None
    assert policy.shadowed == {"challenger": 1}
    policy = ClassifierPolicy(ActiveModels(strict, strict))
    assert policy.ruling(toy.BAD, "block").action == "block"
    assert policy.shadowed == {"both": 1}
    policy = ClassifierPolicy(ActiveModels(strict, Counting(strict, fails=True)))
    assert policy.ruling(toy.BAD, "block").action == "block"
    assert policy.shadowed == {"failed": 1}


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 25), (0.5, 50), (1.0, 100)])
def test_the_shadow_gets_its_share(strict, lax, share, count):
    """
    Of the names that are scored, evenly.
    """
    policy = ClassifierPolicy(ActiveModels(strict, lax), shadow_share=share)
    for number in range(100):
        policy.ruling(f"garden-{number}-q7x.com", "block")
    assert sum(policy.shadowed.values()) == count


def test_a_reload_goes_on_where_the_old_one_stood(strict):
    """
    What was judged and suspected stays; with other zones apart, names are judged anew.
    """
    counting = Counting(strict)
    models = ActiveModels(counting)
    old = ClassifierPolicy(models)
    old.ruling(toy.GREY, "block")
    new = ClassifierPolicy(models)
    new.adopt(old)
    new.ruling(toy.GREY, "block")
    assert len(counting.asked) == 1
    assert new.suspects.top()[0].asked == 2
    other = ClassifierPolicy(models, ["my-log-7.net"])
    other.adopt(new)
    assert other.ruling(toy.GREY, "block") is None
    assert other.counters == {"review": 1, "excluded": 1}
    assert len(other.suspects) == 1


def test_customers_of_a_popular_service_are_reviewed_and_never_blocked(strict):
    """
    What is popular is the service; a model alone blocks nothing below it all the same.
    """

    class Hosted:
        """The model, to which every name is on shared hosting."""

        def __getattr__(self, name):
            return getattr(strict, name)

        def hosting(self, name):
            return True

        def judge(self, name):
            return "block", 0.95

    name = f"pay-1.{next(iter(wellknown.popular()))}"
    assert ClassifierPolicy(ActiveModels(strict)).ruling(name, "block") is None
    policy = ClassifierPolicy(ActiveModels(Hosted(), strict))
    assert policy.ruling(name, "block").action == "review"
    # They are compared with the shadow like any name that is scored, by what the models say.
    assert policy.shadowed.total() == 1
    assert policy.shadowed["champion"] + policy.shadowed["both"] == 1
    # Below a private suffix the popular name is the customer himself.
    popular = wellknown.popular()
    himself = next(n for n in popular if names.is_private_suffix(names.suffix(n)))
    assert policy.ruling(himself, "block") is None
    assert policy.counters == {"review": 1, "popular": 1}


def test_what_is_remembered_costs_no_score(strict, lax):
    """
    A block that the model in use has said, and nothing else.
    """
    counting = Counting(strict)
    models = ActiveModels(counting)
    policy = ClassifierPolicy(models)
    assert policy.remembered(toy.BAD) is None
    for name in (toy.BAD, toy.GREY, toy.GOOD):
        policy.ruling(name, "block")
    assert policy.remembered(toy.BAD) is models.block
    assert policy.remembered(toy.GREY) is None
    assert policy.remembered(toy.GOOD) is None
    models.take(lax, None)
    assert policy.remembered(toy.BAD) is None
    policy.passed(toy.BAD)
    assert [s.name for s in policy.suspects.top()] == [toy.GREY]
    assert len(counting.asked) == 3


def test_what_every_model_needs_is_read_beforehand():
    """
    The brands and the library, whose loading would stop queries for up to 25 ms later.
    """
    brands.Brands.load.__func__.cache_clear()
    booster._library.cache_clear()
    module.prepare()
    assert brands.Brands.load.__func__.cache_info().currsize == 1
    assert booster._library.cache_info().currsize == 1
