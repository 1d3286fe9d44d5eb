"""
A model: its files, and the score and action that they give a name or URL.

A model is stored in the folder of models as ``name-2026-11-24.json`` (its card), ``.txt`` (the
trees), ``.tables`` (the tables of its features) and ``.md`` (the card for people); models for URLs
begin with ``url``.  Knows the card, digests and calibration; leaves features to
`urlguard.classify.features`, and the use of a score to `judge`.

How it works.  A model is refused unless it is what its card says: trees, tables and the code's
definition of the features each have a digest there, because other features would give wrong scores
without an error.  A score is a probability: the trees' raw margin mapped by the card's calibration
curve, linear between its knots and flat outside, rounded to six digits so that it is the same on
any machine.

A `Model` belongs to one thread at a time.  Opening one takes tens of milliseconds, mostly for disk
and digests; a worker does it in a thread of its own.
"""

import hashlib
import importlib
import itertools
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from urlguard.classify.booster import Booster
from urlguard.classify.modelfile import MAX_CARD, MAX_PART, contents
from urlguard.errors import ModelError
from urlguard.names import shown

FORMAT: Final = 1
MAX_MARGIN: Final = 1e6  # of a calibration's knots
MAX_KNOTS: Final = 4096
MAX_FEATURES: Final = 4096
KINDS: Final = ("name", "url")
DIGITS: Final = 6  # of a score

_NAMED = re.compile(r"(name|url)-[0-9A-Za-z][0-9A-Za-z._-]{0,63}").fullmatch
_BLOCK = 1 << 20
# All texts of a card that reach terminals and logs are held to these, and to `_NAMED`.
_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch
_FEATURE = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch


def folder(configured: Path | None = None) -> Path:
    """
    The folder of models: what is configured, or else what came with this installation.

    An installed package carries the models within itself; a source tree has them beside it.
    """
    if configured is not None:
        return configured
    package = Path(__file__).parents[1]
    within = package / "models"
    return within if within.is_dir() else package.parent / "models"


def names(models: Path, kind: str) -> list[str]:
    """The names of the models of a kind whose cards lie in a folder, the newest first."""
    try:
        found = [path.stem for path in models.glob(f"{kind}-*.json")]
    except OSError:
        return []
    return sorted(filter(_NAMED, found), reverse=True)


class Threshold(NamedTuple):
    """The probabilities from which a model blocks, and hands over for review."""

    block_at: float
    review_at: float


class Card(NamedTuple):
    """
    What a model's card says that its use needs; the file has more, for people.

    ``prior`` is the share of fraud that the probabilities are meant for; a card that does not say
    it can be used, and its model cannot be measured.
    """

    name: str
    kind: str
    features: tuple[str, ...]
    features_digest: str
    booster_sha256: str
    tables_sha256: str
    calibration: tuple[tuple[float, float], ...]  # raw margin and probability, ascending
    own: Threshold  # for names of their owners
    hosting: Threshold  # for names on shared hosting
    digest: str  # sha256 of the card's file
    prior: float | None = None

    @property
    def ident(self) -> str:
        """The name and the first 12 digits of the digest: enough to replay a verdict."""
        return f"{self.name}@{self.digest[:12]}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        The card in a file.

        Raises:
            ModelError: it cannot be read, is not whole, or says something that no card may.
        """
        data = contents(path, MAX_CARD)
        try:
            card = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise ModelError(f"{path}: not a card: {exc}") from exc
        try:
            if not isinstance(card, dict):
                raise ValueError("not a card: must be an object")
            if _of(int, card, "format") != FORMAT:
                raise ValueError(f"format {_brief(card['format'])}; this version reads {FORMAT}")
            thresholds = _of(dict, card, "thresholds")
            made = cls(
                _of(str, card, "name"),
                _of(str, card, "kind"),
                _features(card),
                _digest(card, "features_digest"),
                _digest(card, "booster_sha256"),
                _digest(card, "tables_sha256"),
                _calibration(card),
                _threshold(_of(dict, thresholds, "own")),
                _threshold(_of(dict, thresholds, "hosting")),
                hashlib.sha256(data).hexdigest(),
                _number(card, "prior") if "prior" in card else None,
            )
        except KeyError as exc:
            raise ModelError(f"{path}: no {exc.args[0]!r}; a card must have it") from exc
        except ValueError as exc:
            raise ModelError(f"{path}: {exc}") from exc
        made._check(path)
        return made

    def _check(self, path: Path) -> None:
        if self.name != path.stem or self.kind not in KINDS or not _NAMED(self.name):
            raise ModelError(
                f"{path}: is of {_brief(self.kind)} model {_brief(self.name)}; must fit the file"
            )
        knots = self.calibration
        if not knots:
            raise ModelError(f"{path}: calibration is empty; must have a knot at least")
        rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(knots))
        if not rising or not all(abs(raw) <= MAX_MARGIN and 0 <= p <= 1 for raw, p in knots):
            raise ModelError(
                f"{path}: calibration must rise, from 0 at least to 1 at most, over margins of at "
                f"most {MAX_MARGIN:g}"
            )
        for threshold in (self.own, self.hosting):
            # NaN fails every comparison, so it is refused too.
            if not 0 < threshold.review_at <= threshold.block_at:
                raise ModelError(
                    f"{path}: review_at {threshold.review_at} and block_at {threshold.block_at}; "
                    "must be above 0, and review_at not above block_at"
                )
        if self.prior is not None and not 0 < self.prior < 1:
            raise ModelError(f"{path}: prior {self.prior}; must be above 0 and below 1")


# What a card's fields may be.  Each raises a KeyError for a key that is not there, and otherwise a
# ValueError with the key, what was found and what is allowed; never with text that a card could
# have filled with anything.


_TYPES: Final[dict[type[Any], str]] = {dict: "an object", list: "a list"}
_WANTED: Final[dict[type[Any], str]] = _TYPES | {int: "a whole number", str: "text"}


def _of(kind: type[Any], card: dict[str, Any], key: str) -> Any:
    # By the very type: a JSON true is an int to Python.
    if type(card[key]) is not kind:
        raise ValueError(f"{key} is {_brief(card[key])}; must be {_WANTED[kind]}")
    return card[key]


def _brief(value: Any) -> str:
    """A value of a card as it may stand in a message: ASCII, short, without control characters."""
    if isinstance(value, str):
        return shown(value)
    # What is nested could be deeper than `repr` can go.
    return _TYPES.get(type(value)) or shown(json.dumps(value))[1:-1]


def _number(card: dict[str, Any], key: str) -> float:
    return _float(card[key], key)


def _float(value: Any, what: str) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{what} is {_brief(value)}; must be a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{what} is a number of over 300 digits; must be smaller") from None


def _threshold(card: dict[str, Any]) -> Threshold:
    return Threshold(_number(card, "block_at"), _number(card, "review_at"))


def _digest(card: dict[str, Any], key: str) -> str:
    found: str = _of(str, card, key)
    if not _DIGEST(found):
        raise ValueError(f"{key} {_brief(found)}; must be 64 hexadecimal digits in lower case")
    return found


def _features(card: dict[str, Any]) -> tuple[str, ...]:
    found = _of(list, card, "features")
    if not 1 <= len(found) <= MAX_FEATURES:
        raise ValueError(f"features: {len(found)} of them; must be 1 to {MAX_FEATURES}")
    for name in found:
        if type(name) is not str or not _FEATURE(name):
            raise ValueError(
                f"features: {_brief(name)}; must be names of letters, digits and underscores"
            )
    return tuple(found)


def _calibration(card: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    found = _of(list, card, "calibration")
    if len(found) > MAX_KNOTS:
        raise ValueError(f"calibration has {len(found)} knots; may have {MAX_KNOTS}")
    knots = []
    for knot in found:
        if type(knot) is not list or len(knot) != 2:
            raise ValueError(
                f"calibration: {_brief(knot)}; must be pairs of margin and probability"
            )
        raw, p = knot
        knots.append((_float(raw, "calibration"), _float(p, "calibration")))
    return tuple(knots)


class Reading(NamedTuple):
    """
    How this code reads items for a model: the features, over the model's own tables.

    ``row`` gives an item's features in order and ``rows`` those of many items, ``hosting`` whether
    a name is on shared hosting, and ``own`` whether it is a brand's own domain.
    """

    features: tuple[str, ...]
    digest: str
    row: Callable[[Any], Sequence[float]]
    rows: Callable[[Sequence[Any]], Sequence[Sequence[float]]]
    hosting: Callable[[str], bool]
    own: Callable[[str], bool]


Reader = Callable[[str, bytes], Reading]  # of a kind, over tables


def reading(kind: str, tables: bytes) -> Reading:
    """
    The features of this version; see `Reading`.

    Raises:
        ModelError: the tables cannot be opened.
    """
    # Imported here, and by name so that tests can put others there: only a process that runs a
    # model pays for brands, words and automata.
    features = importlib.import_module("urlguard.classify.features")
    opened = importlib.import_module("urlguard.classify.tables").Tables.of(tables)
    brands = importlib.import_module("urlguard.classify.brands").Brands.load()
    extractor = features.Extractor(opened)
    definition = features.BY_KIND[kind]
    return Reading(
        tuple(feature.name for feature in definition),
        features.digest(kind),
        extractor.name if kind == "name" else extractor.url,
        extractor.of_names if kind == "name" else extractor.of_urls,
        opened.hosting,
        lambda name: brands.own(name) is not None,
    )


class Model:
    """
    One model, ready to score.

    ``ident`` names it in verdicts: the name, and the first digits of its card's digest.  ``row``,
    ``rows``, ``hosting`` and ``own`` are its `Reading`'s; ``margin`` gives the trees' raw margin of
    such a row, and ``contributions`` what each feature adds to that and, as the last, the margin
    that is expected of any (`Booster.contributions`; milliseconds).
    """

    def __init__(self, card: Card, booster: Booster, reading: Reading) -> None:
        if booster.features != len(card.features):
            raise ModelError(
                f"model {card.name}: trees for {booster.features} features; "
                f"the card has {len(card.features)}"
            )
        self.card = card
        self.name = card.name
        self.kind = card.kind
        self.ident = card.ident
        self.own = reading.own
        self.hosting = reading.hosting
        self.row = reading.row
        self.rows = reading.rows
        self.margin = booster.raw
        self.contributions = booster.contributions
        self._margins = booster.raws
        self._raws = [raw for raw, _ in card.calibration]
        self._probabilities = [p for _, p in card.calibration]

    @classmethod
    def open(
        cls, models: Path, kind: str, name: str | None = None, *, reader: Reader = reading
    ) -> Self:
        """
        A model of the folder: the one with this name, or the newest of its kind.

        Args:
            models: the folder.
            kind: ``name`` or ``url``.
            name: such as ``name-2026-11-24``.
            reader: makes the features' side; tests bring a small one.

        Raises:
            ModelError: there is none, a digest does not fit, or its features are not this code's.
        """
        if name is None:
            found = names(models, kind)
            if not found:
                raise ModelError(f"{models}: no card {kind}-*.json; there must be one")
            name = found[0]
        elif not _NAMED(name) or not name.startswith(f"{kind}-"):
            raise ModelError(f"model {name!r}: must be named like {kind}-2026-11-24")
        card = Card.read(models / f"{name}.json")
        tables = models / f"{name}.tables"
        data = contents(tables, MAX_PART)
        found_digest = hashlib.sha256(data).hexdigest()
        if found_digest != card.tables_sha256:
            raise ModelError(
                f"{tables}: sha256 is {found_digest}; must be {card.tables_sha256}, as its card "
                "says"
            )
        try:
            read = reader(card.kind, data)
        except Exception as exc:  # a resolver must not die of what a model's side cannot read
            problem = str(exc) if isinstance(exc, ModelError) else f"{type(exc).__name__}: {exc}"
            raise ModelError(f"{tables}: {problem}") from exc
        if read.digest != card.features_digest or read.features != card.features:
            raise ModelError(
                f"model {name}: made for features {card.features_digest}; this version computes "
                f"{read.digest}"
            )
        booster = Booster.open(models / f"{name}.txt", card.booster_sha256)
        return cls(card, booster, read)

    def score(self, item: Any) -> float:
        """
        How probably an item is fraud, 0 to 1.

        Args:
            item: a canonical name, or a `urls.Url`, by the model's kind.
        """
        return self.probability(self.margin(self.row(item)))

    def scores(self, items: Iterable[Any]) -> list[float]:
        """The scores of many items, each the same as from `score`."""
        return list(map(self.probability, self._margins(self.rows(list(items)))))

    def judge(self, item: Any) -> tuple[str, float]:
        """The action at the model's thresholds (block, review or none), and the score."""
        score = self.score(item)
        return self.action(score, item if self.kind == "name" else item.name), score

    def action(self, score: float, name: str | None) -> str:
        """What a score means for a host name: block, review or none."""
        card = self.card
        # The lower of the two is met by few, so that hosting is looked up for these alone.
        if score < card.own.review_at and score < card.hosting.review_at:
            return "none"
        hosted = name is not None and self.hosting(name)
        threshold = card.hosting if hosted else card.own
        if score >= threshold.block_at:
            return "block"
        return "review" if score >= threshold.review_at else "none"

    def probability(self, raw: float) -> float:
        """The calibrated probability of a raw margin, rounded to `DIGITS`."""
        raws, probabilities = self._raws, self._probabilities
        at = bisect_right(raws, raw)
        if at == 0:
            return round(probabilities[0], DIGITS)
        if at == len(raws):
            return round(probabilities[-1], DIGITS)
        low, high = raws[at - 1], raws[at]
        below, above = probabilities[at - 1], probabilities[at]
        return round(below + (above - below) * ((raw - low) / (high - low)), DIGITS)


def find(
    models: Path,
    kind: str,
    *,
    named: str | None = None,
    besides: str | None = None,
    now: Model | None = None,
    reader: Reader = reading,
) -> tuple[Model | None, list[ModelError]]:
    """
    The model to use: the newest of the folder that may be used.

    Args:
        models: the folder.
        kind: ``name`` or ``url``.
        named: this one and no other.
        besides: not this one: it runs as the shadow.
        now: the one in use, which is given back if it is the one, or if there is no other.
        reader: as in `Model.open`.

    Returns:
        The model, None if there is none; and why newer ones were refused.
    """
    refused: list[ModelError] = []
    for name in [named] if named is not None else names(models, kind):
        if name == besides:
            continue
        try:
            here = now.card.digest if now is not None and now.name == name else None
            if here is not None and here == Card.read(models / f"{name}.json").digest:
                return now, refused
            return Model.open(models, kind, name, reader=reader), refused
        except ModelError as exc:
            refused.append(exc)
    return now, refused
