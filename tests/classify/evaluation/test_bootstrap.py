"""The bootstrap: draws of owners, counted against draws of real rows."""

import math

import numpy as np
import pytest

from urlguard.classify.evaluation import bootstrap, metrics

ROUNDS, SEED = 20, 9


@pytest.fixture(scope="module")
def rows():
    """Labels, rounded scores, so that there are ties, and owners of several rows."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 300)
    scores = np.round(random.normal(labels, 1), 1)
    owners = [f"{'bad' if label else 'good'}{random.integers(60)}" for label in labels]
    return labels, scores, owners


def drawn(labels, owners):
    """
    One draw after the other, as the docstring says it: numbers of rows, each as often as drawn.
    """
    random = np.random.default_rng(SEED)
    owned = {False: {}, True: {}}
    for number, (label, owner) in enumerate(zip(labels, owners, strict=True)):
        owned[bool(label)].setdefault(owner, []).append(number)
    for _ in range(ROUNDS):
        found = []
        for label in (False, True):
            holders = sorted(owned[label])
            picks = random.integers(0, len(holders), len(holders))
            found += [number for pick in picks for number in owned[label][holders[pick]]]
        yield np.array(found)


@pytest.mark.parametrize("fpr", [0.0, 0.05, 0.3, 1.0])
def test_recall_of_draws(fpr, rows):
    """
    Weights and cumulated sums give what drawing real rows gives, threshold and all.
    """
    labels, scores, owners = rows
    fast = bootstrap.tpr_draws(labels, scores, [fpr], owners, ROUNDS, SEED)[:, 0]
    slow = [
        metrics.tpr_at_fpr(labels[here], scores[here], fpr).tpr for here in drawn(labels, owners)
    ]
    assert fast == pytest.approx(slow)
    assert fpr == 1.0 or len(set(slow)) > 3


def test_area_of_draws(rows):
    """
    The area is that of the drawn rows, ties counting half.
    """
    labels, scores, owners = rows
    fast = bootstrap.auc_draws(labels, scores, owners, ROUNDS, SEED)
    slow = [metrics.roc_auc(labels[here], scores[here]) for here in drawn(labels, owners)]
    assert fast == pytest.approx(slow)
    assert len(set(slow)) == ROUNDS


def naive_error(fraud, chance, place, prior):
    """The mean distance of promise and outcome in bins that are given."""
    own = fraud.mean()
    prior = own if prior is None else prior
    weight = np.where(fraud, prior / own, (1 - prior) / (1 - own)) / fraud.size
    found = 0.0
    for number in np.unique(place):
        part = weight[here := place == number]
        promised, came = (part * chance[here]).sum(), (part * fraud[here]).sum()
        found += part.sum() * abs(promised / part.sum() - came / part.sum())
    return found


@pytest.mark.parametrize("prior", [None, 0.05, 0.5])
@pytest.mark.parametrize("bins", [1, 7])
def test_calibration_error_of_draws(prior, bins, rows):
    """
    The bins are those of all rows; each draw is weighted to the prior, or has its own.
    """
    labels, scores, owners = rows
    chance = 1 / (1 + np.exp(-scores))
    edges = [each.low for each in metrics.reliability(labels, chance, prior, bins)]
    place = np.searchsorted(edges, chance, side="right") - 1
    assert len(edges) == bins
    fast = bootstrap.calibration_draws(labels, chance, prior, owners, ROUNDS, SEED, bins)
    slow = [
        naive_error(labels[here] == 1, chance[here], place[here], prior)
        for here in drawn(labels, owners)
    ]
    assert fast == pytest.approx(slow)
    assert len(set(slow)) == ROUNDS


def test_a_draw_of_every_owner_once_is_the_figure_itself(rows, monkeypatch):
    """
    The draws are of the very measures that stand beside them.
    """
    labels, scores, owners = rows
    chance = 1 / (1 + np.exp(-scores))

    class Each:
        """Draws every owner once."""

        def integers(self, low, high, count):
            assert (low, high) == (0, count)
            return np.arange(count)

    monkeypatch.setattr(bootstrap.np.random, "default_rng", lambda seed: Each())
    found = metrics.tpr_at_fpr(labels, scores, 0.05).tpr
    assert bootstrap.tpr_draws(labels, scores, [0.05], owners, 1) == pytest.approx(found)
    assert bootstrap.auc_draws(labels, scores, owners, 1) == pytest.approx(
        metrics.roc_auc(labels, scores)
    )
    for prior in (None, 0.05):
        error = metrics.calibration_error(metrics.reliability(labels, chance, prior))
        assert bootstrap.calibration_draws(labels, chance, prior, owners, 1) == pytest.approx(error)


def test_owners_with_many_rows_widen_the_interval():
    """
    A hundred copies of each row are no hundred times the evidence, for any of the measures.
    """
    random = np.random.default_rng(5)
    labels = np.arange(400) % 2
    scores = random.normal(labels, 1)
    chance = 1 / (1 + np.exp(-scores))

    def intervals(copies):
        owners = np.arange(400).repeat(copies)
        here, score, promised = (each.repeat(copies) for each in (labels, scores, chance))
        draws = [
            bootstrap.tpr_draws(here, score, [0.05], owners, 200)[:, 0],
            bootstrap.auc_draws(here, score, owners, 200),
            bootstrap.calibration_draws(here, promised, 0.5, owners, 200),
        ]
        return [bootstrap.percentiles(each) for each in draws]

    alone, copied = intervals(1), intervals(100)
    for one, other in zip(alone, copied, strict=True):
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.05)
    assert alone[1].low < metrics.roc_auc(labels, scores) < alone[1].high
    naive = metrics.tpr_at_fpr(labels.repeat(100), scores.repeat(100), 0.05).fraud.interval
    assert copied[0].high - copied[0].low > 4 * (naive.high - naive.low)


def test_draws_of_two_classifiers_belong_together():
    """
    Equal seeds draw equal owners: a classifier's ratio to itself is 1 in every draw.
    """
    random = np.random.default_rng(6)
    labels = np.arange(500) % 2
    scores = random.normal(labels, 1)
    owners = np.arange(500) // 2 * 2 + labels  # an owner has rows of one label
    first = bootstrap.tpr_draws(labels, scores, [0.1, 0.01], owners, 50, seed=1)
    same = bootstrap.tpr_draws(labels, scores * 3 + 1, [0.1, 0.01], owners, 50, seed=1)
    other = bootstrap.tpr_draws(labels, scores, [0.1, 0.01], owners, 50, seed=2)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert bootstrap.percentiles(first[:, 0] / first[:, 0]) == metrics.Interval(1.0, 1.0)
    areas = bootstrap.auc_draws(labels, scores, owners, 50, seed=1)
    assert np.array_equal(areas, bootstrap.auc_draws(labels, scores * 3 + 1, owners, 50, seed=1))


def test_the_middle_of_draws():
    """
    Two and a half in a hundred lie below and above; what is no number lies nowhere.
    """
    draws = np.arange(1001) / 1000
    assert bootstrap.percentiles(draws) == metrics.Interval(0.025, 0.975)
    assert bootstrap.percentiles(np.append(draws, [math.nan] * 500)) == metrics.Interval(
        0.025, 0.975
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap.tpr_draws([1, 0], [1, 2], [0.1], ["a"]), "1 owners for 2 rows"),
        (lambda: bootstrap.tpr_draws([1, 0], [1, 2], [0.1], "ab", rounds=0), "0 rounds"),
        (lambda: bootstrap.tpr_draws([1, 0], [1, 2], [], "ab"), "no rates"),
        (lambda: bootstrap.tpr_draws([1, 0], [1, 2], [1.5], "ab"), "rate of 1.5"),
        (lambda: bootstrap.auc_draws([1, 1], [1, 2], "ab"), "both kinds"),
        (lambda: bootstrap.auc_draws([1, 0], [1, 2], "abc"), "3 owners for 2 rows"),
        (lambda: bootstrap.auc_draws([1, 0], [1, 2], "ab", rounds=0), "0 rounds"),
        (lambda: bootstrap.calibration_draws([1, 0], [2, 0], 0.1, "ab"), "probabilities"),
        (lambda: bootstrap.calibration_draws([1, 0], [1, 0], 1.0, "ab"), "prior of 1.0"),
        (lambda: bootstrap.calibration_draws([1, 0], [1, 0], 0.1, "a"), "1 owners for 2 rows"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, words):
    """
    No interval comes out of data that cannot carry it.
    """
    with pytest.raises(ValueError, match=words):
        call()
