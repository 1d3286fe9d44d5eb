"""
The check of names, URLs and addresses: the JSON object of ``urlguard check`` and the API.

Knows the policy as an `Engine` and the models; knows no sockets and no server.

How it works.  Rules decide first, then the popularity table, except for customers of a popular
hosting service.  If neither decides, the model for names or the one for URLs scores the item, and
`classify.policy`, the thresholds and ``[classify] mode`` turn the score into the verdict: the
resolver uses the same functions.  A URL is eligible if its host's name is, or if its host is a
public address.  A stream is answered chunk by chunk as it arrives; the items of a chunk are scored
together, which saves most of the calls.
"""

import importlib
import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from urlguard import names, urls
from urlguard.classify import model as models
from urlguard.classify import policy
from urlguard.classify.model import Model
from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.errors import InputError
from urlguard.i18n import gettext_noop, in_every_language
from urlguard.verdict import NOTHING, Verdict

MAX_INPUT = 65_536  # octets per line; the rest of a longer one is skipped

_EXPLAIN: Final = "urlguard.classify.explain"

NOT_JUDGED: Final = "not_judged"  # the feature of the ``why`` entry of an ineligible item
_HOST, _ADDRESS = "host", "address"
_INELIGIBLE: Final = {
    policy.SPELLING: gettext_noop(
        "No model judges it: a label is empty, too long, or has more than letters, digits and "
        "hyphens."
    ),
    policy.SUFFIX: gettext_noop(
        "No model judges it: nobody owns it as a name below a public suffix of ICANN's."
    ),
    policy.SPECIAL: gettext_noop(
        "No model judges it: it is in a special-use zone, or one that browsers ask for signals."
    ),
    policy.OWN_ZONE: gettext_noop(
        "No model judges it: it is in a zone that the configuration forwards."
    ),
    _HOST: gettext_noop("No model judges it: its host is neither a name nor an address."),
    _ADDRESS: gettext_noop("No model judges it: its host is no public address."),
}

_encode = json.JSONEncoder(check_circular=False).encode


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
    The models of `check`; each is opened when the first item needs it.

    ``refused`` has a message for each model that could not be used.

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
        self._why = why
        # Decides which names are eligible; its memory of verdicts is not used here.
        self._classifier = policy.ClassifierPolicy(policy.ActiveModels(), policy.own_zones(config))
        self._explain: Callable[[Model, Any, Listed], list[dict[str, Any]]] | None = None
        if why:
            self._explain = importlib.import_module(_EXPLAIN).why

    def wants(self, item: Any, kind: str, verdict: Verdict) -> bool:
        """True if a model is to be run on an item with this verdict so far."""
        if self.score:
            return True
        if self._mode == "off" or verdict.reason not in ("none", "popular"):
            return False
        name = item if kind == "name" else item.name
        if self.ineligible(kind, item):
            return False
        if verdict.reason == "none":
            return True
        model = self._model(kind)
        return model is not None and policy.protection(name, model) == policy.CUSTOMER

    def ineligible(self, kind: str, item: Any) -> str | None:
        """The reason why no model may score an item, as one word; None if one may."""
        if kind == "name":
            return self._classifier.unfit(item)
        if item.is_ip:
            from urlguard.feeds.downloader import refusal  # few URLs have an address

            return _ADDRESS if refusal(ipaddress.ip_address(item.host)) else None
        return _HOST if item.name is None else self._classifier.unfit(item.name)

    def reasons(self, kind: str, item: Any, verdict: Verdict) -> list[dict[str, Any]]:
        """The ``why`` entries of an item that no model may score."""
        if not self._why or self._mode == "off" or verdict.reason != "none":
            return []
        reason = self.ineligible(kind, item)
        if reason is None:
            return []
        words = in_every_language(_INELIGIBLE[reason])
        return [{"feature": NOT_JUDGED, "value": reason, "contribution": 0.0, "words": words}]

    def verdicts(
        self, kind: str, asked: Sequence[tuple[Any, Verdict]], listed: Listed
    ) -> list[Verdict]:
        """
        The verdicts on items of one kind, after the model has scored all of them.

        `listed` finds the nearest known fraud for the reasons.
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
        if reason in ("none", "popular") and self._mode != "off":
            found = model.action(score, name)
            # Asked in this order because nearly all items end at the first.
            if found != "none" and not self.ineligible(model.kind, item):
                found = policy.limited(found, policy.protection(name, model))
                if found != "none":
                    action, reason = policy.within_mode(found, self._mode), "classifier"
        why = self._explain(model, item, listed) if self._explain is not None else ()
        return Verdict(action, reason, verdict.rule, score, model.ident, why)

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
    """The scores of items; None for an item on which the model fails."""
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
        engine: the policy.
        text: a name, a URL or an address, as typed or found.
        classifier: scores the items that the policy does not decide; None: no model is used.

    Returns:
        A dictionary with the keys of ``urlguard check --json``; ``error`` is the message for an
        input of kind ``invalid``.
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
            else:
                made["why"] += classifier.reasons(kind, item, verdict)
    if classifier is not None:
        for kind, waiting in asked.items():
            verdicts = classifier.verdicts(
                kind, [(item, verdict) for _, item, verdict in waiting], partial(is_listed, engine)
            )
            for (made, item, before), verdict in zip(waiting, verdicts, strict=True):
                made.update(_verdict_keys(verdict))
                made["why"] += classifier.reasons(kind, item, before)
    return found


def _other(
    engine: Engine, text: str, problem: InputError
) -> tuple[urls.Url | None, dict[str, Any], Verdict]:
    """The object and verdict of an input that is no name; and the URL, if it is one."""
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


def _verdict_keys(verdict: Verdict) -> dict[str, Any]:
    """The keys that a verdict fills, except ``rule``."""
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
        engine: the policy.
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
    # A line that is too long is not parsed, but keeps its place among the others.
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
