"""Scenarios in simulated time: each file below tests/scenarios is one test."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.scenario import scenarios, upstream, vocabulary
from tests.scenario.runner import ScenarioFailedError, run
from tests.scenario.vocabulary import ScenarioError

FOLDER = Path(__file__).parent / "scenarios"
FILES = sorted(FOLDER.rglob("*.toml"))

GOOD = """
title = "A scenario"
why = "to see that it is run"

[upstream.main]
records = "www.example. 300 A 192.0.2.1"

[[step]]
ask = "www.example A"
expect = { rcode = "NOERROR" }
"""


def _cases() -> list[object]:
    cases = []
    for path in FILES:
        one = scenarios.read(path)
        mark = [pytest.mark.xfail(reason=one.known_bug)] if one.known_bug else []
        cases.append(pytest.param(one, id=str(path.relative_to(FOLDER))[:-5], marks=mark))
    return cases


@pytest.mark.parametrize("one", _cases())
def test_scenario(one: scenarios.Scenario, tmp_path: Path) -> None:
    """
    The scenario goes as it is written.
    """
    problem = ""
    try:
        run(one, tmp_path)
    except (ScenarioFailedError, ScenarioError) as exc:
        problem = str(exc)
    if problem:
        pytest.fail(problem, pytrace=False)


def test_there_are_enough() -> None:
    """
    At least forty scenarios, each with a title of its own.
    """
    titles = [scenarios.read(path).title for path in FILES]
    assert len(titles) >= 40
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ('{ rcode = "NXDOMAIN" }', "rcode: expected NXDOMAIN, got NOERROR"),
        ('{ answer = ["A 192.0.2.2"] }', "expected 'www.example. any A 192.0.2.2', not there"),
        ('{ answer = ["299 A 192.0.2.1"] }', "got 'www.example. 300 A 192.0.2.1', not expected"),
        ("{ answer = [] }", "got 'www.example. 300 A 192.0.2.1', not expected"),
        ("{ ttl = 299 }", "ttl: expected 299, got 300"),
        ("{ ede = 15 }", "ede: expected [15], got []"),
        ('{ flags = "AD" }', "flags: expected AD, got "),
        ('{ source = "cache" }', "source: expected cache, got forward"),
        ('{ took = "1s" }', "took: expected 1s, got 0ms"),
        ("{ nothing = true }", "expected no answer, got NOERROR"),
        ("{}\nupstream_asked = 0", "upstream_asked: expected 0, got 1"),
        ("{}\nupstream_asked = { main = 2 }", "expected {'main': 2}, got {'main': 1}"),
        ("{}\nupstream_saw = { do = true }", "upstream_saw: do: expected True, got False"),
        ('{}\ncounters = { "cache.misses" = "2.." }', "cache.misses: expected 2.., got 1"),
        ("{}\ncached = 0", "cached: expected 0, got 1"),
        ('{}\nevents = ["upstream.down"]', "events: expected ['upstream.down'], got []"),
        ('{}\npseudonym = "x"', "nothing was noted in the hit log"),
        ("{}\ntimes = 3\ncounts = { NOERROR = 2 }", "counts: NOERROR: expected 2, got 3"),
    ],
)
def test_what_is_not_as_written_fails(tmp_path: Path, expect: str, told: str) -> None:
    """
    Every kind of expectation can fail, and then says file, line, step, what it expected and got.
    """
    text = GOOD.replace('{ rcode = "NOERROR" }', expect)
    with pytest.raises(ScenarioFailedError) as failed:
        run(scenarios.parse(text, Path("good.toml")), tmp_path)
    assert str(failed.value).startswith("good.toml:8: step 1, at 0 s:\n")
    assert told in str(failed.value)


def test_silence_fails(tmp_path: Path) -> None:
    """
    An answer that does not come is a failure, and the scenario does not wait for it for ever.
    """
    text = GOOD.replace("records =", "dead = true\nrecords =")
    text = text.replace("ask =", 'timeout = "1s"\nask =')
    with pytest.raises(ScenarioFailedError, match="expected an answer, got none"):
        run(scenarios.parse(text, Path("good.toml")), tmp_path)


@pytest.mark.parametrize(
    ("was", "wrong", "told"),
    [
        ("expect", "expects", "unknown key 'expects'; did you mean 'expect'?"),
        ("rcode", "rcodes", "expect: unknown key 'rcodes'; did you mean 'rcode'?"),
        ('"NOERROR"', "0", "rcode = 0; must be str"),
        ("records =", "recrods =", "unknown key 'recrods'"),
        ('"www.example. 300', '"www.example 300', "an owner with a final dot"),
        ("192.0.2.1", "192.0.2.", "record 'www.example. 300 A 192.0.2.'"),
        ("www.example A", "www.example A +dnssec", "unknown word '+dnssec'"),
        ("www.example A", "www.example", "must be a name, a type and +words"),
        ("expect =", "note = 'x' #", "it would check nothing"),
        ("ask =", "at = 'soon'\nask =", "must be a duration such as 1h30m"),
        ("ask =", "at = '1s'\nafter = '1s'\nask =", "at and after; one is allowed"),
        ("ask =", "run = 'block'\nask =", "urlguard block: exit 2"),
        ("why =", "config = 'acl.alow = []'\nwhy =", "did you mean 'allow'"),
        ("why =", "title =", "not TOML"),
        ("why = ", "why = '' #", "why is missing"),
    ],
)
def test_a_play_that_is_wrong_is_no_success(
    tmp_path: Path, was: str, wrong: str, told: str
) -> None:
    """
    What nobody understands is an error that names the file and what may stand there.
    """
    text = GOOD.replace(was, wrong, 1)
    assert text != GOOD
    with pytest.raises(ScenarioError) as failed:
        run(scenarios.parse(text, Path("good.toml")), tmp_path)
    assert "good.toml" in str(failed.value)
    assert told in str(failed.value)


def test_a_play_cannot_go_back_in_time(tmp_path: Path) -> None:
    """
    A step before the one before it is an error.
    """
    text = GOOD + '\n[[step]]\nat = "5s"\n\n[[step]]\nat = "4s"\n'
    with pytest.raises(ScenarioError, match="it is 5 s already"):
        run(scenarios.parse(text, Path("good.toml")), tmp_path)


def test_the_log_is_verified_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A scenario during which the policy log was damaged fails, whatever it says.
    """
    monkeypatch.setattr("urlguard.policy.log.PolicyLog.verify", lambda self: "batch 7")
    with pytest.raises(ScenarioFailedError, match="the policy log does not verify: batch 7"):
        run(scenarios.parse(GOOD, Path("good.toml")), tmp_path)


def test_a_plugin_that_raises_fails_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An exception in a plugin is a failure, also where the scenario would take its SERVFAIL.
    """
    monkeypatch.setattr("urlguard.plugins.special.Special.on_query", lambda self, x: 1 // 0)
    text = GOOD.replace("NOERROR", "SERVFAIL")
    with pytest.raises(ScenarioFailedError, match=r"event plugin\.failed"):
        run(scenarios.parse(text, Path("good.toml")), tmp_path)


def test_an_address_in_the_hit_log_fails_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever a scenario says, no client's address may be in the hit log at its end.
    """
    monkeypatch.setattr("urlguard.hitlog.buffer.Pseudonyms.of", lambda self, client, day: client)
    text = GOOD.replace("ask =", 'run = "block www.example"\nask =')
    with pytest.raises(ScenarioFailedError, match=r"has the address 127\.0\.0\.1"):
        run(scenarios.parse(text, Path("good.toml")), tmp_path)


def test_the_readme_names_every_key() -> None:
    """
    Whatever a scenario may say is explained in the README, and nothing else is.
    """
    text = (FOLDER / "README.md").read_text("utf-8")
    told = set(re.findall(r"^\| `([a-z_+]+)", text, re.M))
    known = {f.name for f in dataclasses.fields(upstream.Manner)}
    known |= {f.name for f in dataclasses.fields(upstream.Saying)}
    known |= (
        set(scenarios.SCENARIO) | set(scenarios.STEP) | set(scenarios.EXPECT) | set(scenarios.SAW)
    )
    known |= set(vocabulary.SWITCHES) | set(vocabulary.VALUES)
    assert told == known


def test_the_example_in_the_readme_is_played(tmp_path: Path) -> None:
    """
    The README's short scenario goes as it is written.
    """
    text = (FOLDER / "README.md").read_text("utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
    run(scenarios.parse(example, FOLDER / "README.md"), tmp_path)
