"""
The classifier policy: from a model's score to what the resolver does with a name.

Called after the engine, for names that no rule covers.  `urlguard check` calls the same functions
(`ClassifierPolicy.unfit`, `protection`, `limited`, `within_mode`), so that both agree.
Knows names, the popularity table and models; knows no packets, clients or sockets.

How it works.  A name passes four checks, and the first that applies decides:

    a name of the public Internet?   an ICANN suffix, ordinary labels, not special-use or forwarded
    popular?                         never blocked by a model alone; a popular service's customers
                                     are reviewed from ``review_at`` on
    a brand's own domain?            never blocked by a model alone
    the model's score                block from ``block_at``, review from ``review_at``

The outcome is cached by name, so a name is scored once and then costs a dictionary look-up.  Each
cached outcome carries the generation of the models in use; one of an earlier generation is ignored,
so that replacing a model clears nothing.

Names that a model suspects and nobody has blocked go to the `SuspectMemory`.

A second model, the shadow, may score a share of the names as well.  Only how often each of the two
would block is counted; the shadow's action has no effect.
"""

import contextlib
import importlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from urlguard import events, names, wellknown
from urlguard.classify import booster
from urlguard.classify.model import Model
from urlguard.classify.suspects import SuspectMemory
from urlguard.config import Config
from urlguard.errors import ModelError
from urlguard.special_zones import UNSCORED
from urlguard.verdict import CLASSIFIER, Ruling

MAX_KNOWN: Final = 65_536  # names whose outcome is cached in a worker: 10 MB

CATEGORY: Final = "fraud"  # of what a model blocks, for segments that filter by category
KIND: Final = "model"  # of its ruling; no rule has it

SHADOW: Final = ("both", "champion", "challenger", "neither")

# Why a name or URL is not scored.
SPELLING, SUFFIX, SPECIAL, OWN_ZONE = "spelling", "suffix", "special", "own_zone"

# How a name is protected, whatever its score; a model never acts on the first two.
POPULAR, BRAND, CUSTOMER, PLAIN = "popular", "brand", "customer", "plain"

_LOG_EVERY_S: Final = 10.0

# Letters, digits and hyphens: no underscore, nothing that only a packet can spell.
_ordinary = re.compile(r"(?:[a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{0,62}").fullmatch


class ActiveModels:
    """
    The models that one process uses; read them here for each name.

    ``name`` is the model for names, ``shadow`` the one that is only counted; None where there is
    none.  ``generation`` increases with each change.
    """

    def __init__(self, name: Model | None = None, shadow: Model | None = None) -> None:
        self.generation = 0
        self.take(name, shadow)

    def take(self, name: Model | None, shadow: Model | None) -> None:
        """Put these models into use; the next name is scored by them."""
        self.name = name
        self.shadow = shadow
        self.generation += 1
        # The model's identifier takes the place of a rule's value: it is what decided.
        ident = "" if name is None else name.ident
        self.block = Ruling("block", CATEGORY, (CLASSIFIER,), 0, KIND, ident)
        self.review = Ruling("review", CATEGORY, (CLASSIFIER,), 0, KIND, ident)


class _Assessment(NamedTuple):
    """The outcome for one name under one generation of models."""

    generation: int
    action: str
    score: float


class ClassifierPolicy:
    """
    Applies the model's scores in one worker.

    ``counters``: names by outcome: ``none``, ``review``, ``block``, ``popular``, ``brand``,
    ``excluded`` (not of the public Internet) and ``failed``.  A name counts again when its cached
    outcome was dropped, or with the next model.  ``shadowed``: names by which models would block,
    see `SHADOW`.

    Args:
        models: the models in use.
        excluded: zones whose names are never scored.
        shadow_share: share of the scored names that the shadow scores too, 0 to 1.
    """

    def __init__(
        self,
        models: ActiveModels,
        excluded: Collection[str] = (),
        shadow_share: float = 1.0,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.models = models
        self.counters: Counter[str] = Counter()
        self.shadowed: Counter[str] = Counter()
        self.suspects = SuspectMemory(clock=clock)
        self._excluded = frozenset((*excluded, *UNSCORED))
        self._share = shadow_share
        self._due = 0.0
        self._known: OrderedDict[str, _Assessment] = OrderedDict()
        # Nearly all names get this one, so that remembering them costs no more than their keys.
        self._clear = _Assessment(0, "none", 0.0)
        self._log_throttle = events.Throttle(_LOG_EVERY_S)

    def __len__(self) -> int:
        return len(self._known)

    def ruling(self, name: str, mode: str) -> Ruling | None:
        """
        The model's ruling on a name that no rule covers; None if its score is below ``review_at``.

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
        if found is None or found.generation != models.generation:
            found = self._assess(name, model)
            if len(known) >= MAX_KNOWN:
                known.popitem(last=False)
            known[name] = found
        known.move_to_end(name)
        action = found.action
        if action == "none":
            return None
        if within_mode(action, mode) == "block":
            return models.block
        self.suspects.note(name, found.score, action, model.ident)
        return models.review

    def remembered(self, name: str) -> Ruling | None:
        """
        The ruling to block, if the cached outcome of a name is that; scores nothing.

        For query types that are not scored, so that a name blocked for one type is blocked for all.
        """
        found = self._known.get(name)
        if found is None or found.action != "block" or found.generation != self.models.generation:
            return None
        return self.models.block

    def passed(self, name: str) -> None:
        """Keep a name as a suspect that the model would block and a segment or a pause let pass."""
        found, model = self._known.get(name), self.models.name
        if found is not None and model is not None and found.generation == self.models.generation:
            self.suspects.note(name, found.score, found.action, model.ident)

    def adopt(self, old: "ClassifierPolicy") -> None:
        """Take over the counters, suspects and outcomes of the previous configuration."""
        self.counters, self.shadowed, self.suspects = old.counters, old.shadowed, old.suspects
        if old._excluded == self._excluded and old.models is self.models:
            self._known = old._known

    def unfit(self, name: str) -> str | None:
        """
        Why models do not score a name; None if they do: it is a name of the public Internet.

        Returns:
            `SPELLING`, `SUFFIX`, `SPECIAL` or `OWN_ZONE`.
        """
        if "." not in name:
            return SUFFIX
        if _ordinary(name) is None or len(name) > names.MAX_NAME:
            return SPELLING
        if not names.is_icann(name):
            return SUFFIX
        excluded = self._excluded
        if name in excluded or any(map(excluded.__contains__, names.parents(name))):
            special = any(zone in UNSCORED for zone in (name, *names.parents(name)))
            return SPECIAL if special else OWN_ZONE
        return None

    def _assess(self, name: str, model: Model) -> _Assessment:
        generation = self.models.generation
        try:
            why, score = self._scored(name, model)
        except Exception as exc:  # whatever it is, the query gets its answer
            why, score = "failed", 0.0
            if self._log_throttle.due():
                problem = f"{type(exc).__name__}: {exc}"
                events.error("model.failed", model=model.ident, qname=name, error=problem)
        self.counters[why] += 1
        if why in ("block", "review"):
            return _Assessment(generation, why, score)
        if self._clear.generation != generation:
            self._clear = _Assessment(generation, "none", 0.0)
        return self._clear

    def _scored(self, name: str, model: Model) -> tuple[str, float]:
        if self.unfit(name):
            return "excluded", 0.0
        status = protection(name, model)
        if status in (POPULAR, BRAND):
            return status, 0.0
        action, score = model.judge(name)
        if self.models.shadow is not None:
            self._compare(name, action, self.models.shadow)
        return limited(action, status), score

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


def own_zones(config: Config) -> list[str]:
    """Zones that the configuration forwards to the operator's own servers: not scored."""
    return [*config.special.forwarded, *config.forward.zones]


def protection(name: str | None, model: Model) -> str:
    """
    How a host name, or a URL on it, is protected from a model's action.

    Args:
        name: a canonical name; None for a URL with an address as host.
        model: the scoring model; it knows the shared hosting services.

    Returns:
        `POPULAR`: one of the popular names.  `BRAND`: a brand's own domain.  `CUSTOMER`: a
        customer's site on a popular hosting service.  `PLAIN`: not protected.
    """
    if name is None:
        return PLAIN
    if wellknown.popular_rank(name):
        # Below a private suffix it is the customer who is popular.
        if model.hosting(name) and not names.is_private_suffix(names.suffix(name)):
            return CUSTOMER
        return POPULAR
    return BRAND if model.own(name) else PLAIN


def limited(action: str, status: str) -> str:
    """
    A model's action, limited by the name's `protection`.

    A model alone never acts on a popular name or a brand's own domain.  A customer of a popular
    hosting service may be reviewed, but is not blocked.
    """
    if status in (POPULAR, BRAND):
        return "none"
    return "review" if status == CUSTOMER and action == "block" else action


def within_mode(action: str, mode: str) -> str:
    """An action, limited by ``[classify] mode``: ``review`` turns a block into a review."""
    return "review" if action == "block" and mode != "block" else action


def prepare() -> None:
    """
    Load the tables that any model needs: some 150 ms, the GIL held for up to 25 ms at a time.

    So call it before a worker answers queries, whether or not there is a model yet.
    """
    wellknown.popular()
    names.is_icann("example.com")
    # By name, as in `model.reading`: only a process that runs a model pays, and tests have others.
    importlib.import_module("urlguard.classify.features")
    importlib.import_module("urlguard.classify.tables")
    importlib.import_module("urlguard.classify.brands").Brands.load()
    with contextlib.suppress(ModelError):  # whoever opens a model is told
        booster._library()
