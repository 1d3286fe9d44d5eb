"""
Running a scenario: step by step, and all differences of a step in one message.
"""

import contextlib
import gzip
import re
from collections import Counter
from pathlib import Path
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from tests.scenario.clients import Asked, Clients
from tests.scenario.resolver import Resolver, resolver
from tests.scenario.scenarios import Scenario, Step
from tests.scenario.vocabulary import ScenarioError, ask, comparable, duration, expected
from urlguard.errors import InputError
from urlguard.feeds import schedule

_TIMEOUT = "10s"  # how long a client waits
_SILENCE = "1s"  # how long it waits where nothing may come
_BATCH = 64  # queries sent at once: what the kernel surely holds
_SLACK_S = 0.03  # timers of ours fire a little later


class ScenarioFailedError(AssertionError):
    """The scenario did not go as it is written."""


def run(one: Scenario, folder: Path) -> None:
    """
    Run it.

    Args:
        folder: for the files; empty.

    Raises:
        ScenarioFailedError: something is not as the scenario says; names file, line, step and
            each difference.
        ScenarioError: the scenario cannot be run.
    """
    where = f"{one.path.name}: {one.title}"
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(
                resolver(folder, one.config, one.starts, one.upstreams, one.files, one.path.name)
            )
            runner = _Runner(made)
            stack.callback(runner.clients.close)
            for step in one.steps:
                where = f"{one.path.name}:{step.line}: step {step.number}"
                if note := step.table.get("note"):
                    where += f" ({note})"
                wrong = runner.step(step)
                if wrong:
                    raise ScenarioFailedError(
                        "\n  ".join([f"{where}, at {runner.since()}:", *wrong])
                    )
            where = f"{one.path.name}: at the end"
            wrong = runner.end()
            if wrong:
                raise ScenarioFailedError("\n  ".join([f"{where}:", *wrong]))
        except ScenarioError as exc:
            raise ScenarioError(f"{where}: {exc}") from exc


class _Runner:
    """What is remembered from step to step."""

    def __init__(self, made: Resolver) -> None:
        self.resolver = made
        self.clients = Clients(made.loop, made.udp_address, made.tcp_address)
        self._background: dict[str, list[tuple[Asked, str]]] = {}
        self._asked: Counter[str] = Counter()  # of upstreams, before this step
        self._from_packet_cache = 0  # answers before this step
        self._heard = 0  # events before
        self._pseudonyms: dict[str, tuple[str, str]] = {}  # label: pseudonym, the day's key
        self._addresses: set[str] = set()

    def since(self) -> str:
        """How far the scenario is."""
        return f"{self.resolver.loop.now - self.resolver.began:g} s"

    def step(self, step: Step) -> list[str]:
        """Run one step; what is wrong."""
        table = step.table
        self._pass_time(table)
        self._asked = Counter({n: u.asked for n, u in self.resolver.upstreams.items()})
        self._from_packet_cache = self.resolver.udp.counters["packet_cache"]
        wrong = self._act(table)
        several: list[tuple[Asked, str]] = []
        if "ask" in table:
            several = self._ask(table)
        if "answers" in table:
            label = table["answers"]
            if label not in self._background:
                raise ScenarioError(
                    f"answers = {label!r}: no step before has background = {label!r}"
                )
            several = self._background.pop(label)
        self.resolver.loop.settle()
        if "background" in table:
            self._background[table["background"]] = several
        elif several:
            wrong += self._answers(table, several)
            for asked, _ in several:
                asked.hang_up()
        return wrong + self._around(table)

    def end(self) -> list[str]:
        """What must be so after every scenario."""
        made = self.resolver
        wrong = [
            f"event {event}: {keys}" for event, keys in made.events if event == "plugin.failed"
        ]
        if damage := made.log.verify():
            wrong.append(f"the policy log does not verify: {damage}")
        made.write_hits()
        if made.hits_folder.exists():
            for path in made.hits_folder.iterdir():
                text = _text(path)
                wrong += [
                    f"the hit log: {path.name} has the address {address}"
                    for address in sorted(self._addresses)
                    if re.search(rf"(?<![\w.:]){re.escape(address)}(?![\w.:])", text)
                ]
        for label in self._background:
            wrong.append(f"nobody looked at the answers of background = {label!r}")
        return wrong

    # ---- what happens

    def _pass_time(self, table: dict[str, Any]) -> None:
        loop = self.resolver.loop
        when = loop.now
        if "at" in table:
            when = self.resolver.began + duration(table["at"], "at")
            if when < loop.now - 1e-6:
                raise ScenarioError(f"at = {table['at']!r}: it is {self.since()} already")
            when = max(when, loop.now)
        elif "after" in table:
            when += duration(table["after"], "after")
        loop.run_until(when)

    def _act(self, table: dict[str, Any]) -> list[str]:
        made, wrong = self.resolver, []
        made.write(table.get("files", {}))
        for name, change in table.get("upstream", {}).items():
            self._upstream(name).change(change)
        commands = table.get("run", [])
        for line in [commands] if isinstance(commands, str) else commands:
            made.run(line)
        if "refresh" in table:
            try:
                made.refresh(schedule.named(made.config, table["refresh"]))
            except InputError as exc:
                raise ScenarioError(str(exc)) from exc
        if table.get("compile"):
            made.compile()
        if table.get("reload"):
            text = table["reload"]
            made.reload(text if isinstance(text, str) else None)
        if "flush" in table:
            names = table["flush"]
            names = [names] if isinstance(names, str) else names
            removed = made.flush([n for n in names if n != "--all"], everything="--all" in names)
            if removed != table.get("flushed", removed):
                wrong.append(f"flushed: expected {table['flushed']}, got {removed}")
        return wrong

    def _upstream(self, name: str) -> Any:
        if name not in self.resolver.upstreams:
            raise ScenarioError(f"upstream {name!r}: known: {', '.join(self.resolver.upstreams)}")
        return self.resolver.upstreams[name]

    def _ask(self, table: dict[str, Any]) -> list[tuple[Asked, str]]:
        loop = self.resolver.loop
        client, via = table.get("client", "127.0.0.1"), table.get("via")
        times = table.get("times", 1)
        every = duration(table["every"], "every") if "every" in table else 0.0
        self._addresses.add(client)
        several = []
        for number in range(times):
            words = ask(table["ask"].replace("{n}", str(number)), "step")
            several.append((self.clients.send(words, client, via), client))
            if every:
                loop.run_until(loop.now + every)
            elif number % _BATCH == _BATCH - 1:
                loop.settle()
        if "background" in table:
            return several
        silent = table.get("expect", {}).get("nothing") or "nothing" in table.get("counts", {})
        timeout = duration(table.get("timeout", _SILENCE if silent else _TIMEOUT), "timeout")
        loop.run_until(
            loop.now + timeout, unless=lambda: all(a.wire is not None for a, _ in several)
        )
        return several

    # ---- what must come of it

    def _answers(self, table: dict[str, Any], several: list[tuple[Asked, str]]) -> list[str]:
        wrong: list[str] = []
        got: Counter[str] = Counter()
        for asked, client in several:
            kind, problems = self._answer(table.get("expect", {}), asked, client)
            got[kind] += 1
            wrong += problems
        if "counts" in table:
            want = table["counts"]
            wrong += [
                f"counts: {kind}: expected {want.get(kind, 0)}, got {got[kind]}"
                for kind in sorted({*want, *got})
                if not _fits(got[kind], want.get(kind, 0))
            ]
        if len(wrong) > 12:
            wrong = [*wrong[:12], f"and {len(wrong) - 12} more"]
        return wrong

    def _answer(self, want: dict[str, Any], asked: Asked, client: str) -> tuple[str, list[str]]:
        """What kind of answer it is, and what is wrong with it."""
        question = f"{asked.ask.name} {asked.ask.rtype}"
        if asked.wire is None:
            if not want or want.get("nothing"):
                return "nothing", []
            return "nothing", [f"{question}: expected an answer, got none"]
        if want.get("nothing"):
            return "", [f"{question}: expected no answer, got {_brief(asked.wire)}"]
        try:
            message = dns.message.from_wire(asked.wire)
        except dns.exception.DNSException as exc:
            return "broken", [f"{question}: not a DNS message: {exc!r}: {asked.wire.hex()}"]
        cookie = self.clients.learn(asked, client, message)
        rcode = dns.rcode.to_text(message.rcode())
        wrong = _shape(asked, message)
        wrong += self._compare(want, asked, message, cookie)
        return ("TC" if message.flags & dns.flags.TC else rcode), [
            f"{question}: {line}" for line in wrong
        ]

    def _compare(
        self, want: dict[str, Any], asked: Asked, message: dns.message.Message, cookie: bytes
    ) -> list[str]:
        got: dict[str, Any] = {
            "rcode": dns.rcode.to_text(message.rcode()),
            "flags": " ".join(f for f in ("AA", "TC", "AD") if message.flags & dns.flags.Flag[f]),
            "ede": sorted(o.code for o in message.options if isinstance(o, dns.edns.EDEOption)),
            "source": self.resolver.frontend.packets.source,
            "opt": message.edns >= 0,
            "cookie": "none" if not cookie else "same" if cookie == asked.cookie else "new",
            "subnet": next((_subnet(o) for o in message.options if o.otype == 8), "none"),
        }
        if self.resolver.udp.counters["packet_cache"] > self._from_packet_cache:
            got["source"] = "packet_cache"  # the listener did not ask the chain
        wrong = []
        for key in ("rcode", "flags", "ede", "source", "opt", "cookie", "subnet"):
            if key not in want:
                continue
            wanted = want[key]
            if key == "ede":
                wanted = [wanted] if isinstance(wanted, int) else sorted(wanted)
            if wanted != got[key]:
                wrong.append(f"{key}: expected {wanted}, got {got[key]}")
        for section in ("answer", "authority", "additional"):
            if section in want:
                wrong += _records(want[section], section, asked, getattr(message, section))
        if "ttl" in want:
            sets = message.answer or message.authority
            ttls = sorted({rrset.ttl for rrset in sets})
            if ttls != [want["ttl"]]:
                wrong.append(f"ttl: expected {want['ttl']}, got {', '.join(map(str, ttls))}")
        if "took" in want:
            took, wanted_s = asked.came - asked.at, duration(want["took"], "took")
            if not wanted_s - 1e-6 <= took <= wanted_s + _SLACK_S:
                wrong.append(f"took: expected {want['took']}, got {took * 1000:.0f}ms")
        return wrong

    def _around(self, table: dict[str, Any]) -> list[str]:
        """What must have happened beside the answers."""
        made, wrong = self.resolver, []
        asked = {n: u.asked - self._asked[n] for n, u in made.upstreams.items()}
        if "upstream_asked" in table:
            want = table["upstream_asked"]
            got = {n: asked[n] for n in want} if isinstance(want, dict) else sum(asked.values())
            if want != got:
                wrong.append(f"upstream_asked: expected {want}, got {got}")
        for name, text in table.get("counters", {}).items():
            got_count = made.counter(name)
            if not _fits(got_count, text):
                wrong.append(f"counters: {name}: expected {text}, got {got_count}")
        if "upstream_saw" in table:
            wrong += self._saw(table["upstream_saw"], asked)
        if "events" in table:
            heard = [event for event, _ in made.events[self._heard :]]
            self._heard = len(made.events)
            if missing := [event for event in table["events"] if event not in heard]:
                wrong.append(f"events: expected {missing}, got {heard}")
            if not table["events"] and heard:
                wrong.append(f"events: expected none, got {heard}")
        for key, number in (
            ("cached", lambda: len(made.plugin("cache"))),
            ("connections", lambda: len(made.tcp.connections)),
        ):
            if key in table and table[key] != number():
                wrong.append(f"{key}: expected {table[key]}, got {number()}")
        return wrong + self._hits(table)

    def _saw(self, want: dict[str, Any], asked: dict[str, int]) -> list[str]:
        for name, count in asked.items():
            upstream = self.resolver.upstreams[name]
            query = upstream.last
            if count and query is not None:
                got = {
                    "do": bool(query.ednsflags & dns.flags.DO),
                    "cd": bool(query.flags & dns.flags.CD),
                    "ad": bool(query.flags & dns.flags.AD),
                    "edns": query.edns >= 0,
                    "options": len(query.options),
                    "tcp": upstream.last_tcp,
                }
                return [
                    f"upstream_saw: {key}: expected {value}, got {got[key]}"
                    for key, value in want.items()
                    if value != got[key]
                ]
        return ["upstream_saw: expected a query, got none"]

    def _hits(self, table: dict[str, Any]) -> list[str]:
        """Pseudonyms, their keys, and the files of the hit log."""
        made, wrong = self.resolver, []
        if label := table.get("pseudonym"):
            rows = made.write_hits()
            if not rows:
                return [f"pseudonym {label!r}: nothing was noted in the hit log"]
            found = str(rows[-1][1])
            known = self._pseudonyms.setdefault(label, (found, list(made.keys.values())[-1]))
            if known[0] != found:
                wrong.append(f"pseudonym {label!r}: expected {known[0]}, got {found}")
            wrong += [
                f"pseudonym {label!r}: expected another than {other!r}, got the same"
                for other, (text, _) in self._pseudonyms.items()
                if other != label and text == found
            ]
        if label := table.get("forgotten"):
            if label not in self._pseudonyms:
                raise ScenarioError(f"forgotten = {label!r}: no step before has this pseudonym")
            made.write_hits()
            key = self._pseudonyms[label][1]
            day = next(d for d, k in made.keys.items() if k == key)
            if made.pseudonyms.of("192.0.2.1", day) is not None:
                wrong.append(f"forgotten {label!r}: the worker still has the key of {day}")
            for path in made.config.state_dir.rglob("*"):
                octets = path.read_bytes() if path.is_file() else b""
                if key.encode() in octets or bytes.fromhex(key) in octets:
                    wrong.append(f"forgotten {label!r}: the key of {day} is in {path.name}")
        if "hit_files" in table:
            made.write_hits()
            names = sorted(p.name for p in made.hits_folder.glob("*.jsonl*"))
            if names != table["hit_files"]:
                wrong.append(f"hit_files: expected {table['hit_files']}, got {names}")
        return wrong


def _shape(asked: Asked, message: dns.message.Message) -> list[str]:
    """What holds for every answer, whatever the scenario says."""
    wire, sent = asked.wire or b"", asked.sent
    wrong = []
    if asked.more:
        wrong.append(f"expected one answer, got {1 + len(asked.more)}")
    if wire[:2] != sent[:2]:
        wrong.append("expected the query's ID, got another")
    if not wire[2] & 0x80:
        wrong.append("expected QR, got a query")
    if asked.ask.odd:
        return wrong
    end = _question_end(sent)
    if wire[12:end] != sent[12:end]:
        wrong.append(f"expected the question as it was spelled, got {wire[12:end]!r}")
    if not message.flags & dns.flags.RA:
        wrong.append("expected RA, got none")
    for flag in ("RD", "CD"):
        bit = dns.flags.Flag[flag]
        if bool(message.flags & bit) != bool(int.from_bytes(sent[2:4], "big") & bit):
            wrong.append(f"expected {flag} as in the query, got the reverse")
    broken = message.rcode() == dns.rcode.FORMERR  # `expect = { opt = … }` says more
    if (message.edns >= 0) != (asked.ask.edns is not None) and not broken:
        wrong.append("expected an OPT record exactly if the query has one, got the reverse")
    if not asked.ask.tcp and len(wire) > max(512, min(asked.ask.bufsize, 1232)):
        wrong.append(f"expected at most what the client takes, got {len(wire)} octets")
    return wrong


def _question_end(wire: bytes) -> int:
    at = 12
    while wire[at]:
        at += wire[at] + 1
    return at + 5


def _records(want: list[Any], section: str, asked: Asked, sets: list[Any]) -> list[str]:
    """What differs between the records that must be there and those that are."""
    wanted = [expected(str(text), asked.ask.name.lower(), section) for text in want]
    got = [
        (str(s.name).lower(), s.ttl, dns.rdatatype.to_text(s.rdtype), comparable(r))
        for s in sets
        for r in s
    ]
    missing = []
    left = list(got)
    for one in wanted:
        fits = [
            g
            for g in left
            if one.ttl in (None, g[1]) and (one[0], one[2], one[3]) == (g[0], g[2], g[3])
        ]
        if fits:
            left.remove(fits[0])
        else:
            missing.append(str(one))
    wrong = [f"{section}: expected {line!r}, not there" for line in missing]
    return wrong + [f"{section}: got {' '.join(map(str, g))!r}, not expected" for g in left]


def _fits(got: int, want: Any) -> bool:
    """True if a number is as wanted: a number, or bounds as in ``40..60``, ``1..``."""
    if isinstance(want, int):
        return got == want
    low, dots, high = str(want).partition("..")
    try:
        return dots == ".." and int(low or 0) <= got <= int(high or got)
    except ValueError:
        raise ScenarioError(f"{want!r}: must be a number, or bounds such as 40..60") from None


def _subnet(option: dns.edns.Option) -> str:
    if isinstance(option, dns.edns.ECSOption):
        return f"{option.address}/{option.srclen}/{option.scopelen}"
    return repr(option)


def _brief(wire: bytes) -> str:
    with contextlib.suppress(dns.exception.DNSException):
        message = dns.message.from_wire(wire)
        return f"{dns.rcode.to_text(message.rcode())}, {len(message.answer)} RRsets"
    return wire.hex()


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
