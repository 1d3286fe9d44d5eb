"""
What ``urlguard check`` says of one input: the object that people, scripts and the API rely on.

Knows the policy as an `Engine`; opening one without making a file is its business too.

How it works.  A rule, or the popularity table, decides first.  Where neither does, the model of
names or the one of URLs is asked, within the bounds that `classify.judge` sets for names, and the
verdict follows its thresholds and ``[classify] mode``.  A stream is answered piece by piece as it
comes in, and a piece's items are scored together, which spares most of the calls.
"""

import importlib
import importlib.util
import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from urlguard import events, names, urls
from urlguard.blocklist import snapshot
from urlguard.classify import judge
from urlguard.classify import model as models
from urlguard.classify.model import Model
from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.errors import InputError, SnapshotError
from urlguard.verdict import NOTHING, Verdict, decode

MAX_INPUT = 65_536  # octets of one line; the rest of a longer one is skipped

_EXPLAIN: Final = "urlguard.classify.explain"

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


Listed = Callable[[str], bool]  # whether a name is on a list as fraud


def is_listed(engine: Engine, name: str) -> bool:
    """True if a rule for this very name, and not a wider one or a pattern, blocks it."""
    ruling = engine.decide(name)
    return (
        ruling is not None
        and (ruling.action, ruling.value) == ("block", name)
        and ruling.kind != "pattern"
    )


class Classifier:
    """
    The models as `check` uses them; each is opened when the first item needs it.

    ``refused`` says why models were not used, in words.

    Args:
        config: where models are, and what they may do.
        score: run them on every item, also where a rule has decided.
        why: explain what they say.
        reader: as in `Model.open`.
    """

    def __init__(
        self,
        config: Config,
        *,
        score: bool = False,
        why: bool = False,
        reader: models.Reader = models.reading,
    ) -> None:
        self.score = score
        self.refused: list[str] = []
        self._config = config
        self._mode = config.classify.mode
        self._reader = reader
        self._opened: dict[str, Model | None] = {}
        # Which names models judge is the judge's to say; nothing is remembered here.
        self._judge = judge.Judge(judge.InUse(), judge.apart(config))
        self._explain: Callable[[Model, Any, Listed], list[dict[str, Any]]] | None = None
        if why and importlib.util.find_spec(_EXPLAIN) is not None:
            self._explain = importlib.import_module(_EXPLAIN).why

    def wants(self, item: Any, kind: str, verdict: Verdict) -> bool:
        """True if a model is to be run on an item with this verdict so far."""
        if self.score:
            return True
        if self._mode == "off" or verdict.reason != "none":
            return False
        return kind == "url" or self._judge.judged(item)

    def verdicts(
        self, kind: str, asked: Sequence[tuple[Any, Verdict]], listed: Listed
    ) -> list[Verdict]:
        """
        The verdicts on items of one kind once the model has been asked about all of them.

        `listed` is for reasons that name the nearest known fraud.
        """
        model = self._model(kind) if asked else None
        if model is None:
            return [verdict for _, verdict in asked]
        scores = _scores(model, [item for item, _ in asked])
        return [
            self._verdict(model, item, verdict, score, listed)
            for (item, verdict), score in zip(asked, scores, strict=True)
        ]

    def _verdict(
        self, model: Model, item: Any, verdict: Verdict, score: float | None, listed: Listed
    ) -> Verdict:
        if score is None:
            return verdict
        action, reason = verdict.action, verdict.reason
        name = item if model.kind == "name" else item.name
        if reason == "none" and self._mode != "off":
            found = model.action(score, name)
            if found != "none" and self._may(model, name):
                action, reason = (found if self._mode == "block" else "review"), "classifier"
        why = self._explain(model, item, listed) if self._explain is not None else ()
        return Verdict(action, reason, verdict.rule, score, model.ident, why)

    def _may(self, model: Model, name: str | None) -> bool:
        """Whether a model may say something against what is at a host name."""
        if name is None:
            return True
        return (model.kind == "url" or self._judge.judged(name)) and not judge.exempt(name, model)

    def _model(self, kind: str) -> Model | None:
        if kind not in self._opened:
            options = self._config.classify
            named, shadow = (options.model, options.shadow) if kind == "name" else (None, None)
            folder = models.folder(options.models)
            found, refused = models.find(
                folder, kind, named=named, besides=shadow, reader=self._reader
            )
            self._opened[kind] = found
            self.refused += map(str, refused)
            if found is None and self.score and not refused:
                self.refused.append(f"{folder}: no {kind} model there")
        return self._opened[kind]


def _scores(model: Model, items: Sequence[Any]) -> list[float | None]:
    """Scores of items; None where the model fails, which must not cost the others theirs."""
    try:
        return list(model.scores(items))
    except Exception:
        if len(items) == 1:
            return [None]
        return [score for item in items for score in _scores(model, [item])]


def inspect(engine: Engine, text: str, classifier: Classifier | None = None) -> dict[str, Any]:
    """
    The object for one input.

    Args:
        engine: the policy to judge by.
        text: a name, a URL or an address, as somebody typed or found it.
        classifier: asked where the policy does not decide; None: no model is.

    Returns:
        A dictionary with the keys of ``urlguard check --json``; ``error`` says what is wrong with
        an input of kind ``invalid``.
    """
    return inspect_all(engine, [text], classifier)[0]


def inspect_all(
    engine: Engine, texts: Sequence[str], classifier: Classifier | None = None
) -> list[dict[str, Any]]:
    """The objects for many inputs, in order; see `inspect`."""
    found: list[dict[str, Any]] = []
    asked: dict[str, list[tuple[dict[str, Any], Any, Verdict]]] = {"name": [], "url": []}
    for text in texts:
        item: Any
        try:
            # Nearly every line of a long list is a plain name, so that is tried first.
            item = names.canonical(text)
        except InputError as exc:
            item, made, verdict = _other(engine, text, exc)
        else:
            verdict = engine.verdict(item)
            made = _object(text, "name", item, item, verdict)
        found.append(made)
        if item is not None and classifier is not None:
            kind = made["kind"]
            if classifier.wants(item, kind, verdict):
                asked[kind].append((made, item, verdict))
    if classifier is not None:
        for kind, waiting in asked.items():
            verdicts = classifier.verdicts(
                kind, [(item, verdict) for _, item, verdict in waiting], partial(is_listed, engine)
            )
            for (made, _, _), verdict in zip(waiting, verdicts, strict=True):
                made.update(_said(verdict))
    return found


def _other(
    engine: Engine, text: str, problem: InputError
) -> tuple[urls.Url | None, dict[str, Any], Verdict]:
    """A URL, if it is one, and the object and verdict of what is no name."""
    stripped = text.strip()
    if (address := _address(stripped)) is not None:
        return None, _object(text, "ip", address, None, NOTHING), NOTHING
    if not urls.looks_like_url(stripped):
        return None, _object(text, "invalid", None, None, NOTHING, error=str(problem)), NOTHING
    try:
        url = urls.parse(stripped)
    except InputError as exc:
        return None, _object(text, "invalid", None, None, NOTHING, error=str(exc)), NOTHING
    verdict = engine.url_verdict(url)
    return url, _object(text, "url", url.canonical, url.name, verdict), verdict


def _said(verdict: Verdict) -> dict[str, Any]:
    """The keys that a verdict fills, but for the rule."""
    return {
        "action": verdict.action,
        "reason": verdict.reason,
        "score": verdict.score,
        "model": verdict.model,
        "why": list(verdict.why),
    }


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


def lines(
    engine: Engine, chunks: Iterator[bytes], classifier: Classifier | None = None
) -> Iterator[bytes]:
    """
    One JSON object for each line of UTF-8 text, in order, blank lines included.

    Args:
        engine: the policy to judge by.
        chunks: the input in pieces as they arrive.
        classifier: as in `inspect`.

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
            yield _encoded(engine, complete, classifier)
        if skipping:
            rest = b""
        elif len(rest) > MAX_INPUT:
            yield _encoded(engine, [rest], classifier)
            rest, skipping = b"", True
    if rest and not skipping:
        yield _encoded(engine, [rest], classifier)


def _encoded(engine: Engine, complete: Sequence[bytes], classifier: Classifier | None) -> bytes:
    """The objects of whole lines."""
    # What is too long is not read, and has its place between the others all the same.
    texts = [
        line.removesuffix(b"\r").decode(errors="replace")
        for line in complete
        if len(line) <= MAX_INPUT
    ]
    found = iter(inspect_all(engine, texts, classifier))
    objects = [next(found) if len(line) <= MAX_INPUT else _overlong(line) for line in complete]
    return "".join([_encode(one) + "\n" for one in objects]).encode("ascii")


def _overlong(line: bytes) -> dict[str, Any]:
    problem = f"line: more than {MAX_INPUT} octets; may have at most as many"
    return _object(
        line[:200].decode(errors="replace"), "invalid", None, None, NOTHING, error=problem
    )
