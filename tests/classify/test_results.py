"""What scores are worth: slices, sources and targets, counted by hand."""

import json

import numpy as np
import pytest

from urlguard.classify.evaluation import metrics
from urlguard.classify.training import dataset, provenance, results, slices
from urlguard.classify.training.dataset import Rows


def labelled(*found):
    """Rows from pairs of a name and a source; fraud where the source is one of fraud."""
    text, source = [name for name, _ in found], [source for _, source in found]
    label = np.array([name in ("openphish", "dga-goz") for name in source], dtype=np.int8)
    months = ["2025-10-01"] * len(text)
    return Rows("name", text, label, ["x"] * len(text), source, months, text, frozenset(), {})


@pytest.mark.parametrize(
    ("name", "source", "wanted"),
    [
        ("a.example", "umbrella", {"popular"}),
        ("a.gov.cn", "", {"government", "Chinese"}),
        ("a.gob.mx", "smallweb", {"government", "small web"}),
        ("a.go.jp", "", {"government"}),
        ("go.com", "", {"other web"}),
        ("gov.com", "", {"other web"}),
        ("a.edu", "", {"universities"}),
        ("a.ac.uk", "", {"universities"}),
        ("me.github.io", "", {"shared hosting"}),
        ("github.io", "", {"shared hosting"}),
        ("a.example", "openphish", set()),
        ("a.gov", "openphish", set()),
    ],
)
def test_slices(name, source, wanted):
    """
    By source and by suffix; in several, or in the rest; never fraud.
    """
    found = slices.slices(labelled((name, source)))
    assert {slice_ for slice_, flags in found.items() if flags[0]} == wanted
    assert len(found) == len(wanted)


def test_slices_of_chosen_rows():
    """
    Flags are in the order of what was chosen.
    """
    found = labelled(("a.edu", ""), ("b.example", ""), ("c.edu", ""))
    flags = slices.slices(found, np.array([1, 2]))
    assert {name: list(value) for name, value in flags.items()} == {
        "universities": [False, True],
        "other web": [True, False],
    }


def scored(score, hosting=None):
    """Ten harmless names and four of fraud with scores."""
    names = [(f"good{n}.example", "smallweb" if n else "disconnect") for n in range(10)]
    names += [("bad1.example", "openphish"), ("bad2.example", "openphish")]
    names += [("bad3.example", "dga-goz"), ("bad4.example", "dga-goz")]
    flags = np.zeros(14, dtype=bool) if hosting is None else hosting
    limits = {
        "own": {"block_at": 0.9, "review_at": 0.5},
        "hosting": {"block_at": 0.99, "review_at": 0.95},
    }
    found = labelled(*names)
    return results.Scored(found, np.arange(14), np.array(score), flags, limits, 0.05)


def test_measures_by_hand():
    """
    Two of four found, one of ten harmless blocked; another is up for review.
    """
    score = [0.95, 0.6, *[0.1] * 8, 0.99, 0.7, 0.92, 0.2]
    found = results.measure(scored(score), rounds=20)
    assert [(s.hits, s.rows) for s in found.block] == [(2, 4), (1, 10)]
    assert [(s.hits, s.rows) for s in found.review] == [(3, 4), (2, 10)]
    assert found.everything.auc == pytest.approx(1 - (0 + 1 + 1 + 2) / 40)
    # The harmless row of a source that must not train is not among the commercial ones.
    assert (found.commercial.harmless, found.commercial.fraud) == (9, 4)
    assert found.commercial.auc == pytest.approx(1 - 1 / 36)
    assert {line.name: line.block.hits for line in found.sources} == {"openphish": 1, "dga-goz": 1}
    assert [(line.name, line.block.rows) for line in found.months] == [("2025-10", 4)]
    # At a rate of 0.01 % of ten rows none may be called fraud: 0.95 lies below the threshold.
    assert [(f.name, f.kind, f.found.hits) for f in found.families] == [("goz", "characters", 0)]
    assert {e.name: e.block.hits for e in found.slices} == {
        "cloud, CDN and trackers": 1,
        "small web": 0,
    }


def test_shared_hosting_is_judged_by_its_own_thresholds():
    """
    What blocks a domain need not block a customer's name.
    """
    score = [0.95, *[0.1] * 9, 0.95, 0.95, 0.95, 0.999]
    hosting = np.array([True, *[False] * 9, True, False, True, True])
    found = results.measure(scored(score, hosting), rounds=0)
    assert (found.block[0].hits, found.block[1].hits) == (2, 0)
    assert (found.review[0].hits, found.review[1].hits) == (4, 1)
    assert found.everything.points[0].bootstrap is None


def test_rows_of_one_label_are_measured_all_the_same():
    """
    Without fraud there is no ranking, but there are false positives; a report cannot be made.
    """
    every = scored([0.95, *[0.1] * 13])
    every.chosen, every.score, every.hosting = (
        every.chosen[:10],
        every.score[:10],
        every.hosting[:10],
    )
    found = results.measure(every)
    assert found.everything.auc is None
    assert found.block[1].hits == 1
    said = results.plain(found)
    assert said["block_at"]["recall"]["value"] is None
    json.dumps(said, allow_nan=False)
    with pytest.raises(ValueError, match="fraud and harmless"):
        results.run(every, found, "x")


def test_targets_that_are_missed_are_said_to_be():
    """
    A slice beyond its bound, popular names blocked, mutations that hide half of the fraud.
    """
    found = results.measure(scored([0.5] * 10 + [0.9] * 4), rounds=0)
    share = metrics.Share
    found.slices = [
        results.report.GroupRow("small web", share(4, 6000)),
        results.report.GroupRow("Chinese", share(100, 5999)),  # too few rows to bind
        results.report.GroupRow(results.POPULAR, share(0, 10_000)),
    ]
    mutated = {"hyphen": (100, 40, 10), "digit": (100, 40, 60)}
    targets = results.targets(found, mutated, share(4, 10_000))
    state = {each.what.partition(":")[0]: (each.met, each.measured) for each in targets}
    slice_, top, shipped, _, hyphen, digit = state.values()
    assert not slice_[0]
    assert slice_[1].startswith("small web")
    assert (top[0], shipped[0]) == (True, False)
    assert (hyphen[0], digit[0]) == (False, True)
    assert "10 of 40" in hyphen[1]
    assert "40 of 40" in digit[1]  # nothing beyond what was found before


def test_licences_agree_with_what_may_train():
    """
    Exactly the sources with a non-commercial licence must not train.
    """
    limited = {name for name, source in provenance.SOURCES.items() if "NC" in source.licence}
    assert limited == dataset.NONCOMMERCIAL
    assert provenance.source("dga-matsnu") == provenance.SOURCES["dga"]
    assert provenance.source("somebody") == provenance.UNKNOWN
    assert [provenance.family(name) for name in ("dga-goz", "openphish")] == ["goz", ""]
