"""
The policy flattened into the nodes of a response policy zone.  Pure: rulings in, nodes out.

How it works.  The engine weighs tiers: an operator's ``subtree a.example`` beats a feed's ``domain
x.a.example``.  A response policy zone has no tiers, it has owners: an exact owner beats a wildcard
and the longest wildcard wins.  So each owner here carries what the engine would decide in its
place: the record at ``N`` is the decision about the name N, the one at ``*.N`` the decision about
a name below N that no rule spells out further.  Both follow from the rules at N and at its parents
alone, so one pass from the top down works them out: a `Cover` is what the rules seen so far say
about everything below, the strongest of each tier, and a longer rule of the same tier replaces it.

A wildcard does not reach past a name that exists (the closest encloser, RFC 4592 section 2.2.1),
also when that name exists only because of another one below it.  BIND and Unbound follow that,
PowerDNS and Knot Resolver take the longest wildcard whatever stands between.  So that all of them
answer alike, every node below a wildcard, down to the last rule, restates what it inherits, at
``N`` and at ``*.N``.  What is restated for a rule that blocks nothing is a pass-through.

A node is named backwards with a final dot (``elpmaxe.live.``), as in the compiled tables: in sorted
order a node comes right before everything below it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from urlguard import names
from urlguard.blocklist.suffixes import backwards
from urlguard.errors import InputError
from urlguard.verdict import Ruling, decode

KINDS = ("domain", "subtree", "below")

# What an owner's record does.
NONE, BLOCK, PASS = 0, 1, 2

# A ruling as a number: what of it decides.  0: there is none.
Code = int

_ACTIONS = ("review", "block", "allow", "except")
_REVIEW, _BLOCK, _ALLOW, _EXCEPT = range(4)
_OPERATOR, _RESOLVED = 2, 1
_MEMO = 100_000  # encoded rulings that are remembered

MAX_WIRE = 255  # octets of a name, RFC 1035 section 2.3.4


class Rules(NamedTuple):
    """The rulings at one node, coded."""

    domain: Code = 0
    subtree: Code = 0
    below: Code = 0


class Node(NamedTuple):
    """A node of the zone: its name backwards, its rules, the records at it and at its ``*``."""

    name: str
    rules: Rules
    exact: int
    wild: int


class Cover(NamedTuple):
    """What covers everything below a node: the strongest rule of each tier, and the record."""

    operator: Code = 0
    feeds: Code = 0
    wild: int = NONE


NO_RULES = Rules()
NO_COVER = Cover()


def code(ruling: Ruling | None) -> Code:
    """A ruling at a name rule's key as a number."""
    if ruling is None:
        return 0
    action = _ACTIONS.index(ruling.action)
    return 1 + (action << 2 | ruling.operator * _OPERATOR | ruling.resolved * _RESOLVED)


def descend(above: Cover, rules: Rules) -> Cover:
    """What covers everything below a node with `rules`, under a node that `above` covers."""
    if rules.subtree == rules.below == 0:
        return above
    operator, feeds = above.operator, above.feeds
    # Rules at one node are equally specific.  There a resolved ruling comes before the others; the
    # one for ``below`` knows of the ``subtree`` beside it, not the reverse: see the engine's rank.
    best_operator = best_feed = (-1, -1)
    for ruling, weight in ((rules.subtree, 1), (rules.below, 2)):
        if not ruling:
            continue
        rank = (weight if (ruling - 1) & _RESOLVED else 0, min((ruling - 1) >> 2, _ALLOW))
        if (ruling - 1) & _OPERATOR:
            if rank > best_operator:
                best_operator, operator = rank, ruling
        elif rank > best_feed:
            best_feed, feeds = rank, ruling
    return Cover(operator, feeds, _record(operator or feeds, above))


def exact(above: Cover, rules: Rules) -> int:
    """The record at a node with `rules`, under a node that `above` covers."""
    operator, feeds = above.operator, above.feeds
    # The exact name is more specific than any subtree of the same tier.
    for ruling in (rules.subtree, rules.domain):
        if ruling and (ruling - 1) & _OPERATOR:
            operator = ruling
        elif ruling:
            feeds = ruling
    return _record(operator or feeds, above)


def _record(decided: Code, above: Cover) -> int:
    action = (decided - 1) >> 2 if decided else _EXCEPT
    if action == _BLOCK:
        return BLOCK
    # Nothing to say, but a name that exists hides the wildcard above it in some servers only.
    return PASS if action == _ALLOW or above.wild != NONE else NONE


def flat(rules: Iterable[tuple[str, Rules]]) -> Iterator[Node]:
    """
    All nodes of the zone.

    Args:
        rules: the nodes that have rules, named backwards and sorted.

    Returns:
        These nodes and those that restate what they inherit, sorted, each once.
    """
    path = [("", NO_COVER)]
    for name, mine in rules:
        while not name.startswith(path[-1][0]):
            path.pop()
        top, above = path[-1]
        if above.wild != NONE:
            for between in steps(top, name):
                yield Node(between, NO_RULES, above.wild, above.wild)
                path.append((between, above))
        cover = descend(above, mine)
        yield Node(name, mine, exact(above, mine), cover.wild)
        path.append((name, cover))


def steps(top: str, name: str) -> Iterator[str]:
    """The nodes strictly between `top` and `name`, both backwards; `top` may be the root, ''."""
    end = name.find(".", len(top)) + 1
    while end < len(name):
        yield name[:end]
        end = name.find(".", end) + 1


def collect(rulings: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Rules]]:
    """
    The nodes that have rules, sorted, from keys with encoded rulings in any order.

    Holds all of them in memory: about 150 bytes a name.
    """
    found: dict[str, Rules] = {}
    codes: dict[str, Code] = {}  # a million names of one feed have one text
    shared: dict[Rules, Rules] = {}
    for key, text in rulings:
        kind, _, value = key.partition(" ")
        if kind not in KINDS or why_not(kind, value):
            continue
        number = codes.get(text)
        if number is None:
            if len(codes) > _MEMO:
                codes.clear()
            number = codes[text] = code(decode(text, key))
        name = backwards(value)
        rules = found.get(name, NO_RULES)._replace(**{kind: number})
        found[name] = shared.setdefault(rules, rules)
    for name in sorted(found):
        yield name, found[name]


def why_not(kind: str, value: str, zone: str = "") -> str | None:
    """
    What keeps a rule out of `zone`, or out of any zone; None if nothing does.

    Args:
        kind: of the rule.
        value: of the rule.
        zone: the zone's name; "" leaves out what depends on its length.
    """
    if kind == "pattern":
        return "a pattern; a zone has only names"
    if kind == "url":
        return "a URL rule; a zone has only whole names"
    if kind not in KINDS:
        return "a pause of this server's filtering; other resolvers go on"
    try:
        good = names.canonical(value) == value
    except InputError:
        good = False
    if not good:
        return "not a host name in canonical form"
    last = value.rpartition(".")[2]
    if last.startswith("rpz-"):
        return f"last label {last!r}; in a zone that marks another sort of trigger"
    if zone:
        longest = len(owner(value, kind != "domain")) + len(zone) + 3
        if longest > MAX_WIRE:
            return f"{longest} octets with the zone's name, limit is {MAX_WIRE} (RFC 1035 2.3.4)"
    return None


def owner(value: str, wild: bool) -> str:
    """An owner relative to the zone."""
    return f"*.{value}" if wild else value
