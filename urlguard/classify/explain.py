"""
Explains a model's score of an item: the strongest features, in words, with their contributions.

Knows a model, its features and brands; knows neither rules nor lists: the caller provides a
function that tells whether a name is listed.  Never runs in a worker: one item takes milliseconds.

How it works.  LightGBM splits the raw margin of a row among its features (`Booster.contributions`);
with the expected margin of any row they add up to it.  Related features form one group, since trees
distribute credit among them by chance.  The strongest groups get an entry each, and so does every
brand in the item; the rest is one entry, ``others``, and the expected margin another, ``base``.
All are rounded, and ``others`` takes the rounding error, so that the entries add up to the rounded
margin.  The card's calibration curve maps it to the score.

The nearest known fraud name is found by looking up names that a fraudster would have registered
beside this one (`neighbours`), never by scanning a list, which has millions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from math import fsum
from typing import Any, Final

from urlguard import i18n, names, urls
from urlguard.classify import confusables, describe, features, strings
from urlguard.classify.brands import Brands
from urlguard.classify.model import DIGITS, Model
from urlguard.i18n import gettext_noop, in_every_language

MOST: Final = 8  # groups of features with an entry of their own
MOST_ASKED: Final = 1200  # neighbours that are looked up

BASE: Final = "base"
OTHERS: Final = "others"
NEAREST: Final = "nearest"
JOIN: Final = "+"  # between the names of grouped features

Entry = dict[str, Any]

# Related features, besides the odds and evidence of one key.
_TOGETHER: Final = (
    ("length", "label_length"),
    ("before_length", "before_labels"),
    ("suffix_labels", "suffix_length"),
    ("digits", "digit_runs", "digit_longest", "digit_share"),
    ("hyphens", "token_longest", "token_shortest"),
    ("vowel_share", "consonants_longest"),
    ("entropy", "distinct"),
    ("before_digits", "before_digit_longest"),
    ("grams", "grams_label", "grams_mean", "gram_worst", "gram_best", "grams_url"),
    ("grams_before", "gram_before_worst"),
    ("common", "common_least"),
    ("words", "words_share", "word_longest", "unknown_longest"),
    ("word_worst", "word_best", "words_odds"),
    ("before_words", "before_word_worst", "before_words_odds"),
    ("pinyin_longest", "pinyin_whole"),
    ("brand", "brand_share", "brand_odds"),
    ("brand_before", "brand_before_odds"),
    ("grams_suffix", "suffix_odds", "suffix_evidence"),
    ("path_length", "path_depth", "path_longest"),
    ("path_digits", "path_digit_longest"),
    ("path_entropy", "path_random"),
    ("query_length", "query_parameters", "query_longest", "query_digits"),
    ("grams_path", "gram_path_worst"),
    ("words_path", "words_path_worst", "words_path_odds"),
    ("brand_path", "brand_path_odds"),
)
# The features by which a brand in an item is known; each leads its group.
_BRAND: Final = ("brand", "brand_before", "foreign_brand", "brand_path")

_HEAD: Final = {member: group[0] for group in _TOGETHER for member in group}

_RAISES: Final = gettext_noop("{reasons}; raises suspicion")
_LOWERS: Final = gettext_noop("{reasons}; lowers suspicion")
_SECOND = 0.25  # of the strongest feature of a group: from there on the second is described too

_QUOTED = 40  # signs of a name's piece that are quoted

# Suffixes below which most fraud of the training data stands, and services that give names away.
_DOMAINS = (
    "com top xyz net org ru shop info online site live cn cc com.br pl vip io icu in tk co pro "
    "click ml co.uk app de me club com.au ga space cfd us my.id cf sbs gq store cyou xin fun fr it "
    "buzz life"
)
_SERVICES = (
    "pages.dev webflow.io vercel.app github.io web.app netlify.app firebaseapp.com workers.dev "
    "glitch.me repl.co weebly.com wixsite.com blogspot.com duckdns.org"
)
_AROUND = 30  # numbers on either side, in a series
_MOST_PLACES = 24  # of a label in which a sign is replaced
_SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"

_HOW: Final = {
    "above": gettext_noop("{name} is listed as fraud: above this one"),
    "suffix": gettext_noop("{name} is listed as fraud: the same label, another suffix"),
    "series": gettext_noop("{name} is listed as fraud: the same series, another number"),
    "edit": gettext_noop("{name} is listed as fraud: one sign away"),
}


def why(model: Model, item: Any, listed: Callable[[str], bool] | None = None) -> list[Entry]:
    """
    The reasons for a model's score, the strongest first.

    Args:
        model: the model that scored the item.
        item: a canonical name, or a `urls.Url`, by the model's kind.
        listed: whether a canonical name is listed as fraud; without it no nearest name is searched.

    Returns:
        Entries with the keys ``feature``, ``value``, ``contribution`` (log-odds, six digits) and
        ``words`` (by language).  Grouped features are joined by a plus in ``feature``, and their
        values are a list.  Then ``others``, with how many features it has,
        and ``base``, with no value; if one is found, ``nearest`` with a name, which adds nothing.
        The contributions add up to the raw margin, to `DIGITS` digits.
    """
    row = model.row(item)
    parts = model.contributions(row)
    order = model.card.features
    values = dict(zip(order, map(float, row), strict=True))
    added = dict(zip(order, parts, strict=False))
    item_parts, shared = _parts(model, item)
    worded = {one: item_parts.worded(i18n.translations(one)) for one in i18n.LANGUAGES}
    groups = _groups(order)
    sums = {head: fsum([added[one] for one in group]) for head, group in groups.items()}
    # Sorting is stable: what is equal stays in the features' order.
    ranked = sorted(groups, key=lambda head: -abs(sums[head]))
    always = [head for head in ranked if any(values[one] for one in groups[head] if one in _BRAND)]
    chosen = {*always, *[head for head in ranked if head not in always][: MOST - len(always)]}
    found: list[Entry] = []
    for head in ranked:
        if head in chosen and (sums[head] or head in always):
            found.append(_entry(groups[head], values, added, sums[head], worded))
        else:
            chosen.discard(head)
    base = round(parts[-1], DIGITS)
    rest = fsum([model.margin(row), -base, *[-entry["contribution"] for entry in found]])
    count = sum(len(group) for head, group in groups.items() if head not in chosen)
    found.append(_sum(OTHERS, count, rest))
    found.append(_sum(BASE, None, base))
    name = item if isinstance(item, str) else item.name
    near = nearest(name, listed, shared) if name is not None and listed is not None else None
    return found if near is None else [*found, _near(*near)]


def contributions(model: Model, item: Any) -> dict[str, tuple[float, float]]:
    """Every feature with its value and what it added, unrounded, and ``base`` with the expected."""
    row = model.row(item)
    *parts, base = model.contributions(row)
    found = {
        feature: (float(value), part)
        for feature, value, part in zip(model.card.features, row, parts, strict=True)
    }
    return {**found, BASE: (0.0, base)}


def _groups(order: Sequence[str]) -> dict[str, list[str]]:
    """The groups of related features, each under the name of its first."""
    groups: dict[str, list[str]] = {}
    for feature in order:
        head = _HEAD.get(feature)
        if head is None and feature.endswith("_evidence"):
            head = f"{feature.removesuffix('_evidence')}_odds"
        if head is None or head not in order:
            head = feature
        groups.setdefault(head, []).append(feature)
    return groups


def _entry(
    group: list[str],
    values: Mapping[str, float],
    added: Mapping[str, float],
    total: float,
    worded: Mapping[str, Mapping[str, str]],
) -> Entry:
    # A group that raises is described by the members that raise, though others may lower.
    side = sorted(group, key=lambda one: -added[one] if total >= 0 else added[one])
    if not any(values[one] for one in group):
        side = group[:1]  # all say that there is nothing
    elif brand := [one for one in group if one in _BRAND and values[one]]:
        side = [*brand, *[one for one in side if one not in brand]]
    chosen = side[:1]
    for second in side[1:2]:
        # An absent feature is not worth mentioning beside a present one.
        if values[second] and added[second] * total > _SECOND * abs(added[side[0]] * total):
            chosen.append(second)
    words = {}
    for language, parts in worded.items():
        translations = i18n.translations(language)
        described = [describe.describe(translations, one, values, parts) for one in chosen]
        text, *more = dict.fromkeys(described)
        for second in more:
            # Translators: two reasons of one entry, one after the other.
            text = translations.gettext("{first}, {second}").format(first=text, second=second)
        if total:
            text = translations.gettext(_RAISES if total > 0 else _LOWERS).format(reasons=text)
        words[language] = text
    return {
        "feature": JOIN.join(group),
        "value": values[group[0]] if len(group) == 1 else [values[one] for one in group],
        "contribution": round(total, DIGITS),
        "words": words,
    }


def _sum(what: str, value: int | None, total: float) -> Entry:
    words = (
        in_every_language("what any item starts with")
        if what == BASE
        else in_every_language("{n} other features together", n=value)
    )
    # Adding 0 makes a zero of the minus zero that rounding may leave.
    total = round(total, DIGITS) + 0.0
    return {"feature": what, "value": value, "contribution": total, "words": words}


def _near(name: str, how: str) -> Entry:
    words = in_every_language(_HOW[how], name=name)
    return {"feature": NEAREST, "value": name, "contribution": 0.0, "words": words}


# -- pieces of the item for the words --------------------------------------------------------------


def _parts(model: Model, item: Any) -> tuple[describe.ItemParts, frozenset[str]]:
    """The parts of an item that sentences quote; and its hosting service, if it has one."""
    url = None if isinstance(item, str) else item
    name = item if url is None else strings.host_of(url)
    shared = _service(model, name)
    cut = strings.pieces(name, shared)
    label = cut.label
    plain = {
        "label": _short(label),
        "suffix": cut.suffix,
        "top": cut.suffix.rpartition(".")[2],
        **{f"first{n}": label[:n] for n in (3, 5, 6, 8)},
        **{f"last{n}": label[-n:] for n in (5, 6)},
    }
    parts = describe.ItemParts(plain, {}, {}, _short(cut.before))
    extractor = getattr(model.row, "__self__", None)
    # A reader of another kind has no tables to quote from.
    if not isinstance(extractor, features.Extractor):
        return parts, shared
    _add_brands(parts, extractor.brands, cut, url)
    tables = extractor.tables
    weights, mask = tables.weights, len(tables.weights) - 1
    text = f"^{label}$"
    grams = [text[at : at + n] for n in (3, 4, 5, 6) for at in range(len(text) + 1 - n)]
    gram_weights = [weights[h & mask] for h in strings.label_grams(label.encode())]
    for key, found in (("gram_worst", max(gram_weights)), ("gram_best", min(gram_weights))):
        parts.quoted[key] = grams[gram_weights.index(found)].strip("^$")
    for key, text, pick in (
        ("word_worst", label, max),
        ("word_best", label, min),
        ("before_word_worst", cut.before, max),
        ("words_path_worst", "" if url is None else strings.tail(url).path, max),
    ):
        odds = [(tables.word_odds[number], number) for _, number in tables.cut(text)]
        if odds:
            best = pick(odds, key=lambda one: one[0])
            parts.quoted[key] = tables.words[best[1]]
    return parts, shared


def _service(model: Model, name: str) -> frozenset[str]:
    """The service that gives names away below its domain, if this is one of them."""
    suffix, domain = names.split(name)
    if domain is None or domain == name or names.is_private_suffix(suffix):
        return frozenset()
    return frozenset((domain,)) if model.hosting(name) else frozenset()


def _add_brands(
    parts: describe.ItemParts, brands: Brands, cut: strings.Pieces, url: urls.Url | None
) -> None:
    """Add the brands that the features found, how each is spelled, and the domain's owner."""
    places = [("brand", "written", cut.label), ("brand_before", "written_before", cut.before)]
    if url is not None:
        places.append(("brand_path", "written_path", strings.tail(url).path))
    for key, how, text in places:
        if hits := brands.find(text):
            best = min(hits, key=lambda hit: hit.kind)
            brand = brands[best.brand]
            own = f" ({brand.domains[0]})" if brand.domains else ""
            parts.plain[key] = f"{brand.name}{own}"
            parts.spelled[how] = best.kind + 1, text[best.start : best.end]
    if (owner := brands.own(cut.name)) is not None:
        parts.quoted["owner"] = brands[owner].name
    for part in cut.name.split("."):
        if (shown := confusables.decode(part)) and (
            hits := brands.find(confusables.skeleton(shown))
        ):
            parts.quoted["foreign"] = brands[hits[0].brand].name


def _short(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


# -- the nearest known name ------------------------------------------------------------------------


def nearest(
    name: str, listed: Callable[[str], bool], shared: frozenset[str] = frozenset()
) -> tuple[str, str] | None:
    """
    The nearest name that is listed as fraud, and how it is near; None if none of those asked is.

    Args:
        name: canonical.
        listed: asked at most `MOST_ASKED` times.
        shared: services that give names away, the name's own among them.
    """
    asked = {name}
    for near, how in islice(neighbours(name, shared), MOST_ASKED):
        if near not in asked:
            asked.add(near)
            if listed(near):
                return near, how
    return None


def neighbours(name: str, shared: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """
    Names that a fraudster would have beside this one, the likeliest first; some come twice.

    Yields:
        A name and what it is: ``above``, ``suffix``, ``series`` or ``edit``.
    """
    cut = strings.pieces(name, shared)
    if not cut.suffix:
        return
    label, suffix = cut.label, cut.suffix
    before = f"{cut.before}." if cut.before else ""
    owner = f"{label}.{suffix}"
    for above in (cut.name, *names.parents(cut.name)):
        if len(above) >= len(owner):
            yield above, "above"
    for other in _series(label):
        yield f"{other}.{suffix}", "series"
    for other in _series(before):
        yield f"{other}{owner}", "series"
    for other in (_SERVICES if cut.hosting else _DOMAINS).split():
        yield f"{label}.{other}", "suffix"
    for other in _edits(label):
        yield f"{other}.{suffix}", "edit"


def _series(text: str) -> Iterator[str]:
    """The text with other numbers in the place of each of its own, the nearest numbers first."""
    end = len(text)
    while end:
        start = end
        while start and text[start - 1] in "0123456789":
            start -= 1
        if start == end:
            end -= 1
            continue
        digits = text[start:end]
        number = int(digits)
        for step in range(1, _AROUND + 1):
            for other in (number - step, number + step):
                if other >= 0:
                    yield f"{text[:start]}{other:0{len(digits)}}{text[end:]}"
        end = start


def _edits(label: str) -> Iterator[str]:
    """The label with a sign swapped, missing, replaced or pushed in, the cheapest to list first."""
    size = len(label)
    for at in range(size):
        if size > 3:
            yield label[:at] + label[at + 1 :]
        if at:
            yield label[: at - 1] + label[at] + label[at - 1] + label[at + 1 :]
    for sign in "-0123456789s":
        yield label + sign
        yield sign + label
    for at in range(1, size):
        yield f"{label[:at]}-{label[at:]}"
    for at in range(size - 1, max(-1, size - 1 - _MOST_PLACES), -1):
        for sign in _SIGNS:
            yield label[:at] + sign + label[at + 1 :]
