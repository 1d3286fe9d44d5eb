"""
What ``urlguard check`` says of one input: the object that people, scripts and the API rely on.

Knows the policy as an `Engine`; opening one without making a file is its business too.
"""

import ipaddress
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from urlguard import events, names, urls
from urlguard.blocklist import snapshot
from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.errors import InputError, SnapshotError
from urlguard.verdict import NOTHING, Verdict, decode

MAX_INPUT = 65_536  # octets of one line; the rest of a longer one is skipped

_encode = json.JSONEncoder(check_circular=False).encode


def open_engine(config: Config) -> Engine:
    """
    The policy in force on disk: the newest good snapshot and what the log has since.

    Creates no files.

    Raises:
        PolicyError: the log is damaged.
    """
    folder = config.state_dir / "snapshots"
    if not config.database.exists():
        return _newest(folder, lambda *_: True)
    from urlguard.policy.log import PolicyLog

    log = PolicyLog(config.database, read_only=True)
    try:
        with log.store.reading():
            engine = _newest(folder, log.made)
            changes = list(log.store.changes(engine.serial))
            engine.overlay.apply(((k, decode(after, k)) for k, after, _ in changes), log.serial)
    finally:
        log.close()
    return engine


def _newest(folder: Path, usable: Callable[[int, str], bool]) -> Engine:
    for path in snapshot.newest(folder):
        try:
            if usable(snapshot.serial_of(path), snapshot.history_of(path)):
                return Engine(snapshot.open_folder(path))
        except SnapshotError as exc:
            events.error("snapshot.refused", error=str(exc), using="the one before")
    return Engine(snapshot.nothing())


def inspect(engine: Engine, text: str) -> dict[str, Any]:
    """
    The object for one input.

    Args:
        engine: the policy to judge by.
        text: a name, a URL or an address, as somebody typed or found it.

    Returns:
        A dictionary with the keys of ``urlguard check --json``; ``error`` says what is wrong with
        an input of kind ``invalid``.
    """
    try:
        # Nearly every line of a long list is a plain name, so that is tried first.
        name = names.canonical(text)
    except InputError as exc:
        return _other(engine, text, exc)
    return _object(text, "name", name, name, engine.verdict(name))


def _other(engine: Engine, text: str, problem: InputError) -> dict[str, Any]:
    stripped = text.strip()
    if (address := _address(stripped)) is not None:
        return _object(text, "ip", address, None, NOTHING)
    if not urls.looks_like_url(stripped):
        return _object(text, "invalid", None, None, NOTHING, error=str(problem))
    try:
        url = urls.parse(stripped)
    except InputError as exc:
        return _object(text, "invalid", None, None, NOTHING, error=str(exc))
    return _object(text, "url", url.canonical, url.name, engine.url_verdict(url))


def _object(
    text: str,
    kind: str,
    canonical: str | None,
    name: str | None,
    verdict: Verdict,
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "input": text,
        "kind": kind,
        "canonical": canonical,
        "name": name,
        "registrable": None if name is None else names.registrable(name),
        "action": verdict.action,
        "reason": verdict.reason,
        "score": verdict.score,
        "rule": None if verdict.rule is None else verdict.rule.as_json(),
        "model": verdict.model,
        "why": list(verdict.why),
        "error": error,
    }


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return None


def lines(engine: Engine, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """
    One JSON object for each line of UTF-8 text, in order, blank lines included.

    Args:
        engine: the policy to judge by.
        chunks: the input in pieces as they arrive.

    Yields:
        For each piece, the objects of the lines that it completed; ASCII only.
    """
    rest = b""
    skipping = False  # inside a line that was too long
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        if skipping and complete:
            complete, skipping = complete[1:], False
        if complete:
            yield "".join([_line(engine, line) for line in complete]).encode("ascii")
        if skipping:
            rest = b""
        elif len(rest) > MAX_INPUT:
            yield _line(engine, rest).encode("ascii")
            rest, skipping = b"", True
    if rest and not skipping:
        yield _line(engine, rest).encode("ascii")


def _line(engine: Engine, line: bytes) -> str:
    if len(line) > MAX_INPUT:
        problem = f"line: more than {MAX_INPUT} octets; may have at most as many"
        shown = line[:200].decode(errors="replace")
        return _encode(_object(shown, "invalid", None, None, NOTHING, error=problem)) + "\n"
    return _encode(inspect(engine, line.removesuffix(b"\r").decode(errors="replace"))) + "\n"
