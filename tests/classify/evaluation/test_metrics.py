"""Measures: thresholds with ties, intervals, calibration."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from urlguard.classify.evaluation import metrics

FEW = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)
RATES = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.29, 0.5, 0.9, 1.0])


def naive_threshold(labels, scores, fpr):
    """The definition, word for word."""
    benign = [s for label, s in zip(labels, scores, strict=True) if not label]
    for candidate in sorted(set(scores)):
        if sum(s >= candidate for s in benign) <= fpr * len(benign) + 1e-9:
            return candidate
    return math.inf


@given(FEW, RATES)
def test_the_threshold_is_the_smallest_score_that_keeps_the_rate(rows, fpr):
    """
    With few distinct scores, so with many ties, it is what the definition says.
    """
    labels, scores = zip(*rows, strict=True)
    assert metrics.threshold_at(labels, scores, fpr) == naive_threshold(labels, scores, fpr)


@pytest.mark.parametrize(
    ("benign", "fraud", "fpr", "threshold", "caught"),
    [
        ([1, 2, 3, 4], [3, 5], 0.25, 4, 1),
        ([1, 2, 3, 4], [3, 5], 0.5, 3, 2),
        ([1, 2, 4, 4], [3, 4, 5], 0.25, 5, 1),  # the tie at 4 would be half of them
        ([4, 4, 4, 4], [4, 4], 0.5, math.inf, 0),  # one score for all catches nothing
        ([4, 4, 4, 4], [4, 4], 1.0, 4, 2),
        ([1, 2, 3, 4], [5, 6], 0.0, 5, 2),
        ([7, 2, 3, 4], [5, 6], 0.0, math.inf, 0),
        (list(range(100)), [70, 71, 72], 0.29, 71, 2),  # 0.29 * 100 is 28.999… in binary
    ],
)
def test_recall_at_a_rate(benign, fraud, fpr, threshold, caught):
    """
    Rows of one score are called fraud together or not at all, and the rate is kept.
    """
    labels = [0] * len(benign) + [1] * len(fraud)
    found = metrics.tpr_at_fpr(labels, benign + fraud, fpr)
    assert (found.threshold, found.fraud.hits) == (threshold, caught)
    assert found.benign.value <= fpr + 1e-9
    assert found.bootstrap is None


def test_more_allowed_never_catches_less():
    """
    Recall rises with the rate, on scores with and without ties.
    """
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 2000)
    for scores in (random.normal(labels, 1), np.round(random.normal(labels, 1), 1)):
        rates = [0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 1.0]
        found = [metrics.tpr_at_fpr(labels, scores, rate).tpr for rate in rates]
        assert found == sorted(found)
        assert found[-1] == 1.0


@given(FEW)
def test_auc_counts_pairs(rows):
    """
    The area is the share of pairs in the right order, ties counting half; and the area under the
    curve's straight lines.
    """
    labels, scores = zip(*rows, strict=True)
    bad = [s for label, s in rows if label]
    good = [s for label, s in rows if not label]
    pairs = sum((b > g) + (b == g) / 2 for b in bad for g in good) / (len(bad) * len(good))
    assert metrics.roc_auc(labels, scores) == pytest.approx(pairs)
    curve = metrics.roc_curve(labels, scores)
    x, y = np.concatenate([[0], curve.x]), np.concatenate([[0], curve.y])
    assert np.trapezoid(y, x) == pytest.approx(pairs)


def test_precision_depends_on_the_prior():
    """
    At the data's own prior it is the plain share; at another it is Bayes's.
    """
    labels, scores = [1, 0, 1, 0, 0], [5, 4, 3, 2, 1]
    own, average = metrics.precision_recall(labels, scores)
    assert own.x.tolist() == [0.5, 0.5, 1, 1, 1]
    assert own.y == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4, 2 / 5])
    assert average == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    rare, _ = metrics.precision_recall(labels, scores, prior=0.01)
    assert rare.y[2] == pytest.approx(0.01 / (0.01 + 0.99 / 3))


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (3, 10), (10, 10), (17, 20_000), (5, 6)])
def test_intervals_agree_with_scipy(hits, rows):
    """
    Wilson's and Clopper and Pearson's are those of another implementation.
    """
    there = stats.binomtest(hits, rows).proportion_ci(method="wilson")
    ours = metrics.wilson(hits, rows)
    assert (ours.low, ours.high) == pytest.approx((there.low, there.high), abs=1e-12)
    exact = stats.binomtest(hits, rows, alternative="less").proportion_ci(method="exact")
    assert metrics.upper_bound(hits, rows) == pytest.approx(exact.high, abs=1e-9)


def test_no_hit_is_no_proof():
    """
    The bound of a slice without a hit falls with its rows, as three in n; of no rows it is 1.
    """
    assert metrics.Share(0, 6000).upper == pytest.approx(3 / 6000, rel=0.01)
    assert metrics.Share(0, 0).upper == 1.0
    assert math.isnan(metrics.Share(0, 0).value)
    assert metrics.Share(0, 0).interval == metrics.Interval(0.0, 1.0)
    assert metrics.Share(0, 50).interval.low == 0.0


def test_calibrated_probabilities_have_no_error():
    """
    Fraud drawn with the promised chance gives a small error, and a promise off by 0.2 gives 0.2.
    """
    random = np.random.default_rng(7)
    chance = random.uniform(0, 0.8, 200_000)
    labels = random.uniform(size=chance.size) < chance
    bins = metrics.reliability(labels, chance)
    assert len(bins) == metrics.BINS
    assert metrics.calibration_error(bins) < 0.01
    assert sum(each.mass for each in bins) == pytest.approx(1)
    assert sum(each.rows for each in bins) == chance.size
    off = metrics.reliability(labels, chance + 0.2)
    assert metrics.calibration_error(off) == pytest.approx(0.2, abs=0.01)


def test_calibration_is_measured_at_the_prior():
    """
    Probabilities meant for 5 % fraud are right among half fraud once the rows are weighted.
    """
    random = np.random.default_rng(8)
    labels = np.arange(200_000) % 2 == 0
    margin = random.normal(np.where(labels, 1.0, -1.0), 1.0)
    # Two normal distributions at ±1: the log of their ratio is 2 · margin.
    chance = 1 / (1 + np.exp(-(2 * margin + math.log(0.05 / 0.95))))
    there = metrics.reliability(labels, chance, prior=0.05)
    assert metrics.calibration_error(there) < 0.005
    assert metrics.calibration_error(metrics.reliability(labels, chance)) > 0.1
    assert max(each.mass for each in there) < 1.2 / metrics.BINS


def test_a_tie_stays_in_one_bin():
    """
    Equal probabilities are one promise.
    """
    bins = metrics.reliability([0, 1] * 50, [0.3] * 90 + [0.7] * 10)
    assert [(each.low, each.high, each.rows) for each in bins] == [(0.3, 0.3, 90), (0.7, 0.7, 10)]


def test_shares_by_group():
    """
    Each group has its own hits and rows.
    """
    found = metrics.shares(["b", "a", "b", "c"], [True, False, False, True])
    assert found == {
        "a": metrics.Share(0, 1),
        "b": metrics.Share(1, 2),
        "c": metrics.Share(1, 1),
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.roc_auc([1, 1], [1, 2]), "both kinds"),
        (lambda: metrics.roc_auc([1, 0], [1, 2, 3]), "shape"),
        (lambda: metrics.roc_auc([1, 0], [1, math.nan]), "finite"),
        (lambda: metrics.threshold_at([1, 0], [1, 2], 1.5), "rate of 1.5"),
        (lambda: metrics.reliability([1, 0], [1.5, 0]), "probabilities"),
        (lambda: metrics.reliability([1, 0], [0.5, 0], prior=0.0), "prior of 0.0"),
        (lambda: metrics.reliability([1, 0], [0.5, 0], bins=0), "0 bins"),
        (lambda: metrics.wilson(3, 2), "3 hits in 2 rows"),
        (lambda: metrics.shares(["a"], [True, False]), "1 groups for 2 rows"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, words):
    """
    No figure comes out of data that cannot carry it.
    """
    with pytest.raises(ValueError, match=words):
        call()
