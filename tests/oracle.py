"""
The naive oracle: what precedence means, in plain lines over the list of claims.

Written from the design's words alone and sharing nothing with the code that it judges.
"""

import random

STRENGTH = ["review", "block", "allow"]


def covers(kind, value, name):
    """True if the rule covers the name."""
    below = name.endswith("." + value)
    return {"domain": name == value, "subtree": name == value or below, "below": below}[kind]


def specificity(kind, value):
    """Exact beats all others; then the longer name."""
    return kind == "domain", value.count("."), value


def decide(claims, name):
    """
    The action about a name: block, allow, review or None.

    `claims`: (source, kind, value, action) of all claims in force.
    """
    mine = [c for c in claims if covers(c[1], c[2], name)]
    people = [c for c in mine if not c[0].startswith("feed:") and c[3] != "except"]
    if people:
        return strongest(people)
    left = []
    for source in {c[0] for c in mine}:
        own = [c for c in mine if c[0] == source]
        cancelled = [specificity(c[1], c[2]) for c in own if c[3] == "except"]
        left += [
            c
            for c in own
            if c[3] != "except" and all(specificity(c[1], c[2]) > e for e in cancelled)
        ]
    return strongest(left) if left else None


def strongest(claims):
    """The action of the most specific claims; among equals allow, then block, then review."""
    best = max(specificity(c[1], c[2]) for c in claims)
    level = [c[3] for c in claims if specificity(c[1], c[2]) == best]
    return max(level, key=STRENGTH.index)


# Rules and names that collide

SOURCES = ("operator", "analyst:ada", "feed:one", "feed:two", "feed:three")


def random_name(rng: random.Random, labels="abc", depths=(0, 1, 1, 2, 2, 3, 3, 4, 5)):
    """A name of few labels from a small alphabet."""
    depth = rng.choice(depths)
    return ".".join([rng.choice(labels) for _ in range(depth)] + [rng.choice(("test", "example"))])


def random_changes(rng: random.Random, source, standing, count):
    """Changes of one batch: (rule key, action or None), each key once; some withdraw."""
    changes = {}
    own = sorted(key for s, key in standing if s == source)
    for _ in range(count):
        if own and rng.random() < 0.45:
            key, action = rng.choice(own), rng.choice((None, None, "block", "review"))
        else:
            kind = rng.choice(("domain", "subtree", "subtree", "below"))
            key = f"{kind} {random_name(rng)}"
            action = rng.choice(
                ("block", "block", "allow", "review")
                if not source.startswith("feed:")
                else ("block", "block", "block", "allow", "review", "except", "except")
            )
        changes[key] = action
    return sorted(changes.items())


def as_claims(standing):
    """The list that `decide` takes, from (source, key) → action."""
    return [(source, *key.split(" "), action) for (source, key), action in standing.items()]
