"""
From a score to what the resolver does: which names are judged, what becomes of them, who is told.

The engine is asked first; whoever asks here knows that no rule covers the name.  Knows names, the
popularity table and models; knows no packets, clients or sockets.

How it works.  A name goes through four questions, and the first that is answered ends it:

    a name of the public Internet?   an ICANN suffix, ordinary labels, not special-use or forwarded
    popular?                         never blocked by a model alone; on shared hosting, reviewed
    a brand's own domain?            nor this
    the model's score                block from ``block_at``, review from ``review_at``

What came of it is remembered for the name and the model, so that a name costs a score once and a
dictionary look-up from then on.  A model that is replaced leaves its remembered judgements behind:
each carries the number of the model's turn, and one of an earlier turn counts as none.

What a model suspects and nobody blocked is kept in `Grey`, in memory and without any client: a name
with its score, and how often and when it was asked for.  People look at it by a command; a queue
for analysts will drain it.

A second model, the shadow, may be scored beside the first on a share of the names.  Only how often
the two would block is counted; what it says is never acted on.
"""

import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple

from urlguard import events, names, wellknown
from urlguard.classify.model import Model
from urlguard.config import Config
from urlguard.verdict import CLASSIFIER, Ruling

MAX_KNOWN: Final = 65_536  # names whose judgement is remembered in a worker: 10 MB
MAX_GREY: Final = 4096  # suspects that are kept
MAX_TOLD: Final = 500  # of them, told at once: finding these takes under a millisecond

CATEGORY: Final = "fraud"  # of what a model blocks, for segments that filter by category
KIND: Final = "model"  # of its ruling; no rule has it

SHADOW: Final = ("both", "champion", "challenger", "neither")

_LOG_EVERY_S: Final = 10.0

# Letters, digits and hyphens: no underscore, nothing that only a packet can spell.
_ordinary = re.compile(r"(?:[a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{0,62}").fullmatch

# Zones below a listed suffix that are nobody's site: RFC 6761 and RFC 7686, and the names by which
# browsers ask whether they may go around their resolver, where an answer means something else.
_SPECIAL: Final = (
    *("arpa", "onion", "example.com", "example.net", "example.org"),
    *("use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com"),
    *("dns-tunnel-check.googlezip.net", "tunnel.googlezip.net"),
)


class InUse:
    """
    The models that one process uses; whoever judges reads them here each time.

    ``name`` is the model for names, ``shadow`` the one beside it; None where there is none.
    ``turn`` is another number after each change.
    """

    def __init__(self, name: Model | None = None, shadow: Model | None = None) -> None:
        self.turn = 0
        self.take(name, shadow)

    def take(self, name: Model | None, shadow: Model | None) -> None:
        """Use these models from the next name on."""
        self.name = name
        self.shadow = shadow
        self.turn += 1
        # The model stands where a list's rule has its own name: it is what decided.
        ident = "" if name is None else name.ident
        self.block = Ruling("block", CATEGORY, (CLASSIFIER,), 0, KIND, ident)
        self.review = Ruling("review", CATEGORY, (CLASSIFIER,), 0, KIND, ident)


class _Judgement(NamedTuple):
    """What one model says of one name."""

    turn: int
    action: str
    score: float


class Suspect(NamedTuple):
    """A name that a model suspects and nobody blocked; times are seconds since 1970."""

    name: str
    score: float
    asked: int  # times that the resolver was asked; what was answered from memory is not in it
    first: int
    last: int
    action: str  # by the thresholds: review, or block where the model may only review
    model: str


def merged(found: Iterable[Suspect]) -> list[Suspect]:
    """The suspects of several workers as one list, the highest score first."""
    whole: dict[str, Suspect] = {}
    for one in found:
        other = whole.get(one.name)
        if other is not None:
            newer = max(one, other, key=lambda suspect: suspect.last)
            first = min(one.first, other.first)
            one = newer._replace(asked=one.asked + other.asked, first=first)
        whole[one.name] = one
    return sorted(whole.values(), key=lambda one: (-one.score, -one.asked, one.name))


class Grey:
    """
    The suspects of one worker; of too many, the one that was asked for longest ago is forgotten.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, limit: int = MAX_GREY, clock: Callable[[], float] = time.time) -> None:
        self._found: OrderedDict[str, list[Any]] = OrderedDict()
        self._limit = limit
        self._clock = clock

    def __len__(self) -> int:
        return len(self._found)

    def note(self, name: str, score: float, action: str, model: str) -> None:
        """A suspect was asked for."""
        now = int(self._clock())
        entry = self._found.get(name)
        if entry is None:
            if len(self._found) >= self._limit:
                self._found.popitem(last=False)
            self._found[name] = [name, score, 1, now, now, action, model]
            return
        self._found.move_to_end(name)
        entry[1] = score
        entry[2] += 1
        entry[4:] = now, action, model

    def top(self, count: int = MAX_TOLD) -> list[Suspect]:
        """The most suspicious, the highest score first; at most `MAX_TOLD`."""
        rows = sorted(self._found.values(), key=itemgetter(1), reverse=True)
        return [Suspect(*row) for row in rows[: max(0, min(count, MAX_TOLD))]]


class Judge:
    """
    The model's part in one worker.

    ``counters``: names by what became of them: ``none``, ``review``, ``block``, ``popular``,
    ``brand``, ``apart`` (not of the public Internet) and ``failed``.  A name counts again when it
    has been forgotten, or with the next model.  ``shadowed``: names by who would block, see
    `SHADOW`.

    Args:
        models: the cell with the models in use.
        apart: zones whose names are never judged.
        shadow_share: of the names that are scored, those that the shadow scores too, 0 to 1.
    """

    def __init__(
        self,
        models: InUse,
        apart: Collection[str] = (),
        shadow_share: float = 1.0,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.models = models
        self.counters: Counter[str] = Counter()
        self.shadowed: Counter[str] = Counter()
        self.grey = Grey(clock=clock)
        self._apart = frozenset((*apart, *_SPECIAL))
        self._share = shadow_share
        self._due = 0.0
        self._known: OrderedDict[str, _Judgement] = OrderedDict()
        # Nearly all names get this one, so that remembering them costs no more than their keys.
        self._clear = _Judgement(0, "none", 0.0)
        self._logged = -_LOG_EVERY_S

    def __len__(self) -> int:
        return len(self._known)

    def ruling(self, name: str, mode: str) -> Ruling | None:
        """
        The model's ruling on a name that no rule covers; None if it has nothing against it.

        Args:
            name: lower case, without a trailing dot; what a query spells, so any characters.
            mode: ``block`` or ``review``, which never blocks.
        """
        models = self.models
        model = models.name
        if model is None:
            return None
        known = self._known
        found = known.get(name)
        if found is None or found.turn != models.turn:
            found = self._judge(name, model)
            if len(known) >= MAX_KNOWN:
                known.popitem(last=False)
            known[name] = found
        known.move_to_end(name)
        action = found.action
        if action == "none":
            return None
        if action == "block" and mode == "block":
            return models.block
        self.grey.note(name, found.score, action, model.ident)
        return models.review

    def adopt(self, old: "Judge") -> None:
        """Go on where the judge of the configuration before stands."""
        self.counters, self.shadowed, self.grey = old.counters, old.shadowed, old.grey
        if old._apart == self._apart and old.models is self.models:
            self._known = old._known

    def judged(self, name: str) -> bool:
        """True if a name is one that models judge: of the public Internet, by its spelling."""
        return is_public(name) and not self._is_apart(name)

    def _is_apart(self, name: str) -> bool:
        apart = self._apart
        return name in apart or any(map(apart.__contains__, names.parents(name)))

    def _judge(self, name: str, model: Model) -> _Judgement:
        turn = self.models.turn
        try:
            why, score = self._scored(name, model)
        except Exception as exc:  # whatever it is, the query gets its answer
            why, score = "failed", 0.0
            now = time.monotonic()
            if now - self._logged >= _LOG_EVERY_S:
                self._logged = now
                problem = f"{type(exc).__name__}: {exc}"
                events.error("model.failed", model=model.ident, qname=name, error=problem)
        self.counters[why] += 1
        if why in ("block", "review"):
            return _Judgement(turn, why, score)
        if self._clear.turn != turn:
            self._clear = _Judgement(turn, "none", 0.0)
        return self._clear

    def _scored(self, name: str, model: Model) -> tuple[str, float]:
        if not self.judged(name):
            return "apart", 0.0
        if reason := exempt(name, model):
            if reason == "brand" or not model.hosting(name):
                return reason, 0.0
            # A customer of a popular service is not what is popular: people may look at it.
            action, score = model.judge(name)
            return ("review" if action == "block" else action), score
        action, score = model.judge(name)
        if self.models.shadow is not None:
            self._compare(name, action, self.models.shadow)
        return action, score

    def _compare(self, name: str, action: str, shadow: Model) -> None:
        self._due += self._share
        if self._due < 1.0:
            return
        self._due -= 1.0
        try:
            theirs, _ = shadow.judge(name)
        except Exception:  # it is here to be tried out
            self.shadowed["failed"] += 1
            return
        ours = action == "block"
        if theirs == "block":
            self.shadowed["both" if ours else "challenger"] += 1
        else:
            self.shadowed["champion" if ours else "neither"] += 1


def apart(config: Config) -> list[str]:
    """Zones that a configuration sends to servers of one's own: their names are not judged."""
    return [*config.special.forwarded, *config.forward.zones]


def is_public(name: str) -> bool:
    """True for ordinary labels below an ICANN suffix."""
    return _ordinary(name) is not None and len(name) <= names.MAX_NAME and names.is_icann(name)


def exempt(name: str, model: Model) -> str | None:
    """Why a model must not judge a name: ``popular``, or ``brand`` for its own; None if it may."""
    if wellknown.popular_rank(name):
        return "popular"
    return "brand" if model.own(name) else None


def prepare() -> None:
    """Read the tables that judging needs, which takes some 50 ms; not on an event loop."""
    wellknown.popular()
    names.is_icann("example.com")
