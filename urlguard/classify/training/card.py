"""
A model's card for people: the JSON card in Markdown, with every figure and where it comes from.

Knows the keys of a card and says them in words; measures nothing, and adds nothing but licences
and what features catch.  The same card gives the same page.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from urlguard.classify.evaluation.metrics import Share
from urlguard.classify.feature_list import BY_KIND
from urlguard.classify.training import results
from urlguard.classify.training.dataset import NONCOMMERCIAL
from urlguard.classify.training.provenance import family, source
from urlguard.classify.training.slices import LEAST

_WHAT: Final = {"name": "host names", "url": "URLs"}
_PARTS: Final = {
    "train": "trains the trial",
    "calibrate": "gives its curve and thresholds",
    "test": "is measured on",
    "undated": "fraud without a day, is measured apart",
}

Json = Mapping[str, Any]


def readable(card: Json) -> str:
    """
    The card in Markdown.

    Args:
        card: as in the JSON file; ``metrics`` as `metrics` makes them.

    Raises:
        KeyError: the card lacks something that a model's card must have.
    """
    trial = card["metrics"]["trial"]
    parts = [
        f"# {card['name']}",
        f"UrlGuard's lexical classifier of {_WHAT[card['kind']]}: how probably one is fraud, by "
        "its letters alone. It knows no content, no address and no age. A probability is meant for "
        f"{card['prior']:.0%} of fraud among what is asked, and is rounded to six digits. The "
        f"figures below are also in `{card['name']}.json`.",
        _table(["", ""], _facts(card)),
        "## What was asked",
        _targets(card["metrics"]["targets"]),
        _rivals(card["metrics"].get("rivals")),
        "## How it was measured",
        _measured(card),
        "## Fraud found at a false-positive rate",
        "Over the test rows, with one threshold for all. In square brackets Wilson's interval of "
        "95 % with the threshold as it is; in round ones that of a bootstrap over owners, which "
        "finds the threshold anew in each draw.",
        _ranking(trial),
        *_undated(card),
        "## Thresholds",
        _thresholds(card),
        "## Harmless slices: false positives",
        f"Slices of {LEAST:,} rows or more bind the thresholds; “at most” is a one-sided bound of "
        "95 %.",
        _lines(trial["slices"], "slice", "blocked", "for review", bound=True),
        *_shipped(card),
        "## Fraud by source",
        "Recall at the thresholds. Sources marked * never train what is shipped, so their fraud "
        "stands for feeds that the model has not seen.",
        _lines(trial["sources"], "source", "blocked", "for review", mark=NONCOMMERCIAL),
        "## Fraud by month of first_seen",
        _lines(trial["months"], "month", "blocked", "for review"),
        "## DGA families",
        _families(card["metrics"].get("shipped", trial)["families"]),
        "## Hostile mutations",
        _mutations(trial["mutations"], trial["mutations_unhardened"]),
        "## Calibration",
        f"Expected calibration error at the prior of {card['prior']:.0%}: "
        f"{_number(trial['calibration_error'], 4)}"
        f"{_drawn(trial.get('calibration_error_drawn'), 4)}.",
        "## Sources",
        _left_out(card),
        _added(card["metrics"].get("added")),
        _sources(card),
        "## Features",
        f"{len(card['features'])} in this order; digest `{card['features_digest']}`.",
        _features(card),
        "## What it cannot tell",
        "Hacked sites and shops that deliver nothing have names like all others; a model of "
        "letters does not see them. Labels of the data are lists' word and partly wrong, on the "
        "harmless side as well, which at a rate of 0.01 % weighs most. Recall is that among the "
        "feeds of the data, and differs between them as the table says.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def metrics(
    trial: results.Measured,
    mutated: results.Mutated,
    unhardened: results.Mutated | None = None,
    thresholds: results.Thresholds | None = None,
    undated: results.Measured | None = None,
    shipped: results.Measured | None = None,
    popular: Share | None = None,
    added: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    What a card says under ``metrics``.

    Args:
        trial: of the test rows, by a model that knows neither their owners nor their time.
        mutated, unhardened: see `results.plain`.
        thresholds: the trial's.
        undated: of fraud without a day among the test's harmless rows, by the same model.
        shipped: of rows by trees of the recipe that ships which have not seen them; its thresholds
            were chosen on these rows.
        popular: blocked names of the most popular ones, likewise.
        added: rankings of the same rows ``without`` sources under non-commercial licences and
            ``beside`` them, of `results.ranking`.
    """
    found: dict[str, Any] = {
        "targets": [asdict(each) for each in results.targets(trial, mutated, popular)],
        "trial": results.plain(trial, mutated, unhardened),
    }
    found["trial"]["thresholds"] = thresholds
    if undated is not None and undated.everything.fraud:
        plain = results.plain(undated)
        found["undated"] = {key: plain[key] for key in ("all", "commercial", "sources")}
    if shipped is not None:
        plain = results.plain(shipped)
        kept = ("block_at", "review_at", "calibration_error", "slices", "families")
        found["shipped"] = {key: plain[key] for key in kept}
        if popular is not None:
            found["shipped"]["popular_blocked"] = results.share(popular)
    if added is not None:
        found["added"] = dict(added)
    return found


def _facts(card: Json) -> list[list[str]]:
    trial = card["metrics"]["trial"]
    return [
        ["made", card["made"]],
        ["made again by", f"`{card['command']}`"],
        ["trees", f"sha256 `{card['booster_sha256']}`"],
        ["tables", f"sha256 `{card['tables_sha256']}`"],
        ["blocks", _pair(trial["block_at"])],
        ["hands over for review", _pair(trial["review_at"])],
    ]


def _pair(found: Json) -> str:
    recall, wrong = found["recall"], found["false_positives"]
    return f"{_share(recall)} of fraud, {_share(wrong)} of harmless rows"


def _measured(card: Json) -> str:
    split = card["split"]
    lines = [
        "A trial of the same recipe was measured, on rows whose owners it does not know and whose "
        f"fraud is newer: fraud first seen before {split['calibrate_from']} trains, from "
        f"{split['test_from']} on it tests, and what lies between helps to calibrate. An owner is "
        "a registrable domain, or a customer's name on shared hosting. Fraud whose only date is "
        "that of an import, on a day after the training's, may be older than it is said to be; it "
        "is undated, trains nothing and is measured apart. Of the DGA families half are undated, "
        "half train. The model that ships was then trained on all rows that may train.",
        "Curve and thresholds come about as those of the model that ships: the rows that train are "
        "scored by tables and trees without their fifth, in which fraud stands by its month and "
        "harmless rows by their owner, and rows that train nothing by the whole. The trial's "
        "harmless rows for this are those that calibrate alone, since those that train are of "
        "fewer sources than the test's; the model that ships counts all.",
    ]
    rows = [
        [name, _PARTS[name], f"{counts['fraud']:,}", f"{counts['harmless']:,}"]
        for name, counts in split["rows"].items()
    ]
    return "\n\n".join([*lines, _table(["part", "", "fraud", "harmless"], rows, right=(2, 3))])


def _targets(found: Sequence[Json]) -> str:
    rows = [
        [
            each["what"],
            each["must"],
            each["aim"],
            each["measured"],
            "met" if each["met"] else "**missed**",
        ]
        for each in found
    ]
    return _table(["figure", "must", "aim", "measured", ""], rows)


def _rivals(found: Json | None) -> str:
    if found is None:
        return ""
    rows = []
    for name, one in found.items():
        if name == "command":
            continue
        row = [name, _number(one["auc"], 4), *map(_share, one["tpr"])]
        for ratio in one["ratio"]:
            ends = f"[{_number(ratio['low'], 2)}, {_number(ratio['high'], 2)}]"
            row.append(f"{_number(ratio['value'], 2)} {ends}")
        rows.append(row)
    if not rows:
        return ""
    rates = [f"{point['fpr'] * 100:g} %" for point in next(iter(found.values()))["tpr"]]
    head = ["rival", "ROC-AUC", *(f"TPR at {rate}" for rate in rates)]
    head += [f"this model ÷ it at {rate}" for rate in rates]
    words = f"Rivals on the same rows, the trial against each (`{found['command']}`):"
    return f"{words}\n\n{_table(head, rows, right=range(1, len(head)))}"


def _ranking(found: Json) -> str:
    head = ["rows", "fraud", "harmless", "ROC-AUC"]
    sets = [("all", "all test rows"), ("commercial", "sources that may train, alone")]
    head += [f"TPR at {point['fpr'] * 100:g} %" for point in found["all"]["tpr"]]
    rows = []
    for key, words in sets:
        one = found[key]
        auc = _number(one["auc"], 4) + _drawn(one.get("auc_drawn"), 4)
        row = [words, f"{one['fraud']:,}", f"{one['harmless']:,}", auc]
        rows.append([*row, *map(_point, one["tpr"])])
    return _table(head, rows, right=range(1, len(head)))


def _undated(card: Json) -> Iterable[str]:
    found = card["metrics"].get("undated")
    if found is None:
        return
    yield (
        "Undated fraud among the same harmless rows, by the same trial; sources at its thresholds:"
    )
    yield _ranking(found)
    yield _lines(found["sources"], "source", "blocked", "for review", mark=NONCOMMERCIAL)


def _drawn(found: Sequence[float] | None, digits: int) -> str:
    return "" if found is None else f" ({found[0]:.{digits}f} to {found[1]:.{digits}f})"


def _point(found: Json) -> str:
    drawn = ""
    if "drawn_low" in found:
        drawn = f" ({_percent(found['drawn_low'])} to {_percent(found['drawn_high'])})"
    return _share(found) + drawn


def _thresholds(card: Json) -> str:
    rows = []
    for whose, limits in (
        ("of this model", card["thresholds"]),
        ("of the trial", card["metrics"]["trial"].get("thresholds")),
    ):
        for words, where in (("domains of their own", "own"), ("shared hosting", "hosting")):
            if limits is not None:
                one = limits[where]
                row = [f"{words}, {whose}", f"{one['block_at']:.6f}", f"{one['review_at']:.6f}"]
                rows.append(row)
    words = (
        "The trial's belong to the figures on this page. They are chosen together, for the most "
        "fraud within the bounds on harmless rows of all sources, those that may not train too; "
        "one above 1 lets everything through."
    )
    return f"{words}\n\n{_table(['', 'block_at', 'review_at'], rows, right=(1, 2))}"


def _shipped(card: Json) -> Iterable[str]:
    shipped = card["metrics"].get("shipped")
    if shipped is None:
        return
    yield (
        "The model that ships, on its own rows, each scored by trees and tables that have not seen "
        "it or its owner. Its thresholds were chosen on these rows, so this table shows what was "
        "allowed, and the one above what came of it on new rows:"
    )
    yield _lines(shipped["slices"], "slice", "blocked", "for review", bound=True)
    popular = shipped.get("popular_blocked")
    if popular and popular["rows"]:
        yield (
            f"Of the {popular['rows']:,} most popular names, without the popularity table that "
            f"protects them, it would block {popular['hits']:,}: {_share(popular)}, at most "
            f"{_percent(popular['at_most'])}."
        )


def _lines(
    found: Json,
    what: str,
    block: str,
    review: str,
    *,
    bound: bool = False,
    mark: frozenset[str] = frozenset(),
) -> str:
    if not found:
        return "Not measured."
    head = [what, "rows", block, *(["at most"] if bound else []), review]
    rows = []
    for name, line in found.items():
        share = line["block_at"]
        row = [name + (" *" if name in mark else ""), f"{share['rows']:,}", _share(share)]
        row += [_percent(share["at_most"])] if bound else []
        rows.append([*row, _share(line["review_at"])])
    return _table(head, rows, right=range(1, len(head)))


def _families(found: Json) -> str:
    if not found:
        return "Not measured."
    rows = [
        [name, one["made_of"], f"{one['rows']:,}", _share(one)]
        for name, one in sorted(found.items(), key=lambda item: (item[1]["made_of"], item[0]))
    ]
    words = (
        f"Recall at a false-positive rate of {results.FAMILY_FPR * 100:g} %, each family held out "
        "whole: the model that ships, scored by tables and trees without the fifth that it is in. "
        "Random letters of one family are much like another's; words are like nothing but words."
    )
    return f"{words}\n\n{_table(['family', 'made of', 'names', 'recall'], rows, right=(2, 3))}"


def _mutations(found: Json, unhardened: Json) -> str:
    if not found:
        return "Not measured."
    rows = []
    for name, one in found.items():
        before, after = one["before"], one["after"]
        soft = unhardened.get(name)
        row = [name, f"{before['rows']:,}", _share(before), _share(after), _kept(one)]
        rows.append([*row, "–" if soft is None else _kept(soft)])
    words = (
        "Fraud of the test rows: how much is found at a false-positive rate of 0.1 % as it is, and "
        "how much once an adversary has changed it; and what was kept by trees grown without "
        "mutated copies."
    )
    head = ["mutation", "rows", "found before", "after", "kept", "kept without copies"]
    return f"{words}\n\n{_table(head, rows, right=range(1, 6))}"


def _kept(found: Json) -> str:
    before, after = found["before"]["hits"], found["after"]["hits"]
    return _percent(after / before if before else None)


def _added(found: Json | None) -> str:
    if found is None:
        return ""
    rows = [
        [words, _number(found[key]["auc"], 4), *map(_share, found[key]["tpr"])]
        for key, words in (("without", "without them"), ("beside", "with them"))
    ]
    rates = [f"TPR at {point['fpr'] * 100:g} %" for point in found["without"]["tpr"]]
    counts = f"{found['without']['fraud']:,} fraud, {found['without']['harmless']:,} harmless"
    words = (
        "What they would have added: the trial once more with their rows, as if they might train, "
        f"on the test rows whose owners neither knows ({counts}). That model was thrown away."
    )
    head = ["trained", "ROC-AUC", *rates]
    return f"{words}\n\n{_table(head, rows, right=range(1, len(head)))}"


def _left_out(card: Json) -> str:
    out = sorted(name for name in card["sources"] if name in NONCOMMERCIAL)
    if not out:
        return "All sources train."
    return (
        f"Not trained on, for their licences are non-commercial: {', '.join(out)}. Their harmless "
        "rows help to calibrate and to choose thresholds, and test; what fraud of theirs is new "
        "enough tests."
    )


def _sources(card: Json) -> str:
    rows = []
    dga = [0, 0]
    for name, counts in card["sources"].items():
        if family(name):
            dga[0] += counts["rows"]
            dga[1] += counts["trained"]
            continue
        known = source(name)
        row = [name, known.repository, known.licence]
        rows.append([*row, f"{counts['rows']:,}", f"{counts['trained']:,}"])
    if dga[0]:
        known = source("dga")
        rows.append(["dga", known.repository, known.licence, f"{dga[0]:,}", f"{dga[1]:,}"])
    return _table(["source", "published in", "licence", "rows", "trained"], rows, right=(3, 4))


def _features(card: Json) -> str:
    defined = BY_KIND[card["kind"]]
    catches = {feature.name: feature.catches for feature in defined}
    rows = [[f"`{name}`", catches.get(name, "")] for name in card["features"]]
    return _table(["feature", "catches"], rows)


def _share(found: Json) -> str:
    if found["value"] is None:
        return "–"
    return f"{_percent(found['value'])} [{_percent(found['low'])}, {_percent(found['high'])}]"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 1 if value >= 0.1 or value == 0 else 2 if value >= 0.001 else 4
    return f"{value * 100:.{digits}f} %"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    set_right = set(right)
    ruler = ["--:" if n in set_right else "---" for n in range(len(head))]
    lines = [head, ruler, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
