"""
From a score to what the resolver does: which names are judged, what becomes of them, who is told.

The engine is asked first; whoever asks here knows that no rule covers the name.  Knows names, the
popularity table and models; knows no packets, clients or sockets.  `urlguard check` asks the same
functions (`Judge.unfit`, `standing`, `bounded`, `under`), so that it says what the resolver does.

How it works.  A name goes through four questions, and the first that is answered ends it:

    a name of the public Internet?   an ICANN suffix, ordinary labels, not special-use or forwarded
    popular?                         never blocked by a model alone; a popular service's customers
                                     are reviewed from ``review_at`` on
    a brand's own domain?            nor this
    the model's score                block from ``block_at``, review from ``review_at``

What came of it is remembered for the name and the model, so that a name costs a score once and a
dictionary look-up from then on.  A model that is replaced leaves its remembered judgements behind:
each carries the number of the model's turn, and one of an earlier turn counts as none.

What a model suspects and nobody blocked is kept in `Grey`, in memory and without any client: a name
with its score, and how often and when it was asked for.  People look at it by a command, and the
control process hands it over to the queue of cases.  Of too many suspects the least worth looking
at go, so that a flood of random names drives out its own kind and not what many people ask for or
what scores high.

A second model, the shadow, may be scored beside the first on a share of the names.  Only how often
the two would block is counted; what it says is never acted on.
"""

import contextlib
import importlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from math import log2
from operator import attrgetter
from typing import Final, NamedTuple

from urlguard import events, names, wellknown
from urlguard.classify import booster
from urlguard.classify.model import Model
from urlguard.config import Config
from urlguard.errors import ModelError
from urlguard.verdict import CLASSIFIER, Ruling

MAX_KNOWN: Final = 65_536  # names whose judgement is remembered in a worker: 10 MB
MAX_GREY: Final = 4096  # suspects that are kept
MAX_TOLD: Final = 500  # of them, told at once: finding these takes under a millisecond
WEEK_S: Final = 7 * 86_400  # in which nobody asks, and a suspect is worth half as much

CATEGORY: Final = "fraud"  # of what a model blocks, for segments that filter by category
KIND: Final = "model"  # of its ruling; no rule has it

SHADOW: Final = ("both", "champion", "challenger", "neither")

# Why a name or URL is none that a model judges.
SPELLING, SUFFIX, SPECIAL, OWN_ZONE = "spelling", "suffix", "special", "own_zone"

# What stands at a name before anybody looks at its score; of the first two no model says anything.
POPULAR, BRAND, CUSTOMER, PLAIN = "popular", "brand", "customer", "plain"

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
    action: str  # what the model would do: review, or block where it may not
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


class _Kept:
    """A suspect while it is kept."""

    __slots__ = (
        *("action", "asked", "at", "first", "last", "model", "name", "score", "told", "worth"),
    )

    def __init__(self, name: str, now: int) -> None:
        self.name = name
        self.first = now
        self.asked = 0
        self.told = 0  # of `asked`, what was handed over
        self.at = 0  # in the heap

    def note(self, now: int, score: float, action: str, model: str) -> None:
        """It was asked for."""
        self.asked += 1
        self.last, self.score, self.action, self.model = now, score, action, model
        self.worth = log2(max(score, 1e-6) * self.asked) + now / WEEK_S


class Grey:
    """
    The suspects of one worker; of too many, the one that is worth least is forgotten.

    What one is worth: its score, times how often it was asked for, halved for each week since
    then.  So neither the names of a flood, which are asked for once each, nor the favourites of
    last month keep out what people ask for now.

    How it works.  The logarithm of the worth, plus the weeks from 1970 to the last question, does
    not change while time passes, so suspects stand in a binary heap by it, the least first.  One
    that is asked for is moved in it: a dozen steps at most, whatever anybody asks.

    Args:
        limit: suspects that are kept.
        clock: seconds since 1970.
    """

    def __init__(self, limit: int = MAX_GREY, clock: Callable[[], float] = time.time) -> None:
        self._found: dict[str, _Kept] = {}
        self._heap: list[_Kept] = []
        self._limit = limit
        self._clock = clock

    def __len__(self) -> int:
        return len(self._found)

    def note(self, name: str, score: float, action: str, model: str) -> None:
        """A suspect was asked for."""
        now = int(self._clock())
        kept, heap = self._found.get(name), self._heap
        if kept is None:
            kept = self._found[name] = _Kept(name, now)
            if len(heap) < self._limit:
                kept.at = len(heap)
                heap.append(kept)
            else:
                del self._found[heap[0].name]
                heap[0] = kept
        kept.note(now, score, action, model)
        self._move(kept)

    def top(self, count: int = MAX_TOLD) -> list[Suspect]:
        """The most suspicious, the highest score first; at most `MAX_TOLD`."""
        most = sorted(self._heap, key=attrgetter("score"), reverse=True)
        return [
            Suspect(k.name, k.score, k.asked, k.first, k.last, k.action, k.model)
            for k in most[: max(0, min(count, MAX_TOLD))]
        ]

    def untold(self, count: int) -> list[tuple[Suspect, int]]:
        """
        Suspects that were asked for since they were last handed over, each with how often since.

        The oldest of them are looked at first in memory's own order, so that a call costs little
        and all have their turn; whoever gets them says so by `told`.
        """
        found: list[tuple[Suspect, int]] = []
        for k in self._found.values():
            if k.asked > k.told:
                one = Suspect(k.name, k.score, k.asked, k.first, k.last, k.action, k.model)
                found.append((one, k.asked - k.told))
                if len(found) >= count:
                    break
        return found

    def told(self, name: str, asked: int) -> None:
        """A suspect was handed over, with all that it was asked for up to `asked`."""
        if (kept := self._found.get(name)) is not None:
            kept.told = max(kept.told, min(asked, kept.asked))

    def _move(self, kept: _Kept) -> None:
        """Put a suspect where its worth belongs."""
        heap, at, worth = self._heap, kept.at, kept.worth
        end = len(heap)
        while (child := 2 * at + 1) < end:
            if child + 1 < end and heap[child + 1].worth < heap[child].worth:
                child += 1
            if heap[child].worth >= worth:
                break
            heap[at] = heap[child]
            heap[at].at = at
            at = child
        while at and heap[parent := (at - 1) // 2].worth > worth:
            heap[at] = heap[parent]
            heap[at].at = at
            at = parent
        heap[at] = kept
        kept.at = at


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
        self._log_throttle = events.Throttle(_LOG_EVERY_S)

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
        if under(action, mode) == "block":
            return models.block
        self.grey.note(name, found.score, action, model.ident)
        return models.review

    def remembered(self, name: str) -> Ruling | None:
        """
        The ruling to block, if that is what the model in use has said of a name; asks no model.

        For queries that cost no score: so a name that is blocked for one type is for any.
        """
        found = self._known.get(name)
        if found is None or found.action != "block" or found.turn != self.models.turn:
            return None
        return self.models.block

    def passed(self, name: str) -> None:
        """A name that the model blocks was let through: keep it as a suspect."""
        found, model = self._known.get(name), self.models.name
        if found is not None and model is not None and found.turn == self.models.turn:
            self.grey.note(name, found.score, found.action, model.ident)

    def adopt(self, old: "Judge") -> None:
        """Go on where the judge of the configuration before stands."""
        self.counters, self.shadowed, self.grey = old.counters, old.shadowed, old.grey
        if old._apart == self._apart and old.models is self.models:
            self._known = old._known

    def unfit(self, name: str) -> str | None:
        """
        Why a name is none that models judge; None if it is one: of the public Internet.

        Returns:
            `SPELLING`, `SUFFIX`, `SPECIAL` or `OWN_ZONE`.
        """
        if "." not in name:
            return SUFFIX
        if _ordinary(name) is None or len(name) > names.MAX_NAME:
            return SPELLING
        if not names.is_icann(name):
            return SUFFIX
        apart = self._apart
        if name in apart or any(map(apart.__contains__, names.parents(name))):
            special = any(zone in _SPECIAL for zone in (name, *names.parents(name)))
            return SPECIAL if special else OWN_ZONE
        return None

    def _judge(self, name: str, model: Model) -> _Judgement:
        turn = self.models.turn
        try:
            why, score = self._scored(name, model)
        except Exception as exc:  # whatever it is, the query gets its answer
            why, score = "failed", 0.0
            if self._log_throttle.due():
                problem = f"{type(exc).__name__}: {exc}"
                events.error("model.failed", model=model.ident, qname=name, error=problem)
        self.counters[why] += 1
        if why in ("block", "review"):
            return _Judgement(turn, why, score)
        if self._clear.turn != turn:
            self._clear = _Judgement(turn, "none", 0.0)
        return self._clear

    def _scored(self, name: str, model: Model) -> tuple[str, float]:
        if self.unfit(name):
            return "apart", 0.0
        what = standing(name, model)
        if what in (POPULAR, BRAND):
            return what, 0.0
        action, score = model.judge(name)
        if self.models.shadow is not None:
            self._compare(name, action, self.models.shadow)
        return bounded(action, what), score

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


def standing(name: str | None, model: Model) -> str:
    """
    What stands at a host name that a model is to judge, or a URL at it: what may be said of it.

    Args:
        name: a canonical name; None for a URL at an address.
        model: the one that judges, which knows what is shared hosting.

    Returns:
        `POPULAR`, one of the popular names; `BRAND`, a brand's own domain; `CUSTOMER`, somebody's
        place on a popular hosting service; else `PLAIN`.
    """
    if name is None:
        return PLAIN
    if wellknown.popular_rank(name):
        # Below a private suffix it is the customer himself who is popular.
        if model.hosting(name) and not names.is_private_suffix(names.suffix(name)):
            return CUSTOMER
        return POPULAR
    return BRAND if model.own(name) else PLAIN


def bounded(action: str, what: str) -> str:
    """
    What is left of a model's action at a name with this `standing`.

    No model alone says anything against the popular, nor against a brand's own domain.  A customer
    of a popular service is not what is popular: people may look at him, but nothing is blocked.
    """
    if what in (POPULAR, BRAND):
        return "none"
    return "review" if what == CUSTOMER and action == "block" else action


def under(action: str, mode: str) -> str:
    """What is left of an action under ``[classify] mode``, ``block`` or ``review``."""
    return "review" if action == "block" and mode != "block" else action


def prepare() -> None:
    """
    Read whatever any model needs: some 150 ms, of which the interpreter's lock is held up to 25.

    Before a worker answers, therefore, and whether or not there is a model yet.
    """
    wellknown.popular()
    names.is_icann("example.com")
    # By name, as in `model.reading`: only a process that runs a model pays, and tests have others.
    importlib.import_module("urlguard.classify.features")
    importlib.import_module("urlguard.classify.tables")
    importlib.import_module("urlguard.classify.brands").Brands.load()
    with contextlib.suppress(ModelError):  # whoever opens a model is told
        booster._library()
