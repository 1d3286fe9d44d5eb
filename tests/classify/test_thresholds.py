"""Curve and thresholds: what they promise on the rows that they were chosen on."""

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("sklearn")
from urlguard.classify.training import thresholds  # noqa: E402 - what the imports above may skip
from urlguard.classify.training.slices import LEAST as SLICE_ROWS  # noqa: E402
from urlguard.classify.training.thresholds import NEVER, RISK  # noqa: E402

OWN, HOSTING = 80_000, 40_000
BLOCK, REVIEW = (thresholds.allowed(rate, OWN + HOSTING) for rate in (1e-4, 5e-3))


def reached(score, found, hosting, which):
    """Which rows reach a threshold of the pair found."""
    return score >= np.where(hosting, found["hosting"][which], found["own"][which])


def rows(seed, own_shift=0.0, hosting_shift=0.0, fraud=4000):
    """Scores, harmless rows and rows on hosting: harmless ones low, fraud spread."""
    random = np.random.default_rng(seed)
    harmless = np.concatenate([np.ones(OWN + HOSTING, bool), np.zeros(fraud, bool)])
    hosting = np.zeros(len(harmless), bool)
    hosting[OWN : OWN + HOSTING] = True
    hosting[-fraud // 2 :] = True
    raw = random.normal(0, 1, len(harmless)) + np.where(harmless, 0, 3)
    raw += np.where(hosting, hosting_shift, own_shift)
    return np.round(1 / (1 + np.exp(4 - raw)), 6), harmless, hosting


@pytest.mark.parametrize(
    ("rate", "rows", "few"),
    [
        (1e-4, 0, 0),
        (1e-4, 9_999, 0),  # not one of so few
        (5e-4, 6_000, 0),
        (5e-4, 15_000, 2),  # of 7
        (1e-4, 200_000, 11),  # of 20
        (1e-4, 1_000_000, 78),  # of 100
        (5e-3, 200_000, 928),  # of 1000
    ],
)
def test_fewer_are_allowed_than_a_rate_says(rate, rows, few):
    """
    The fewer rows there are, the less what is seen on them says of the next ones.
    """
    assert thresholds.allowed(rate, rows) == few


def test_what_is_allowed_keeps_its_rate_on_new_rows():
    """
    In 19 of 20 lots of new rows, whatever the true rate was that let as many through as allowed.
    """
    random = np.random.default_rng(7)
    rate = random.uniform(0, 2e-4, 400_000)
    seen, new = random.poisson(rate * 200_000), random.poisson(rate * 200_000)
    at = seen == thresholds.allowed(1e-4, 200_000)
    assert (new[at] > 20).mean() < 1.2 * RISK


@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_wrong_blocks_are_bounded_over_all_and_as_many_found_as_any_pair_would(shift):
    score, harmless, hosting = rows(1, hosting_shift=shift)
    found = thresholds.chosen(score, harmless, hosting, {})
    for which, allowed in (("block_at", BLOCK), ("review_at", REVIEW)):
        assert reached(score, found, hosting, which)[harmless].sum() <= allowed
    # Each pair that the bound allows, by trying out: none finds more.
    own, shared = (np.sort(score[harmless & here])[::-1] for here in (~hosting, hosting))
    caught = int(reached(score, found, hosting, "block_at")[~harmless].sum())
    for few in range(BLOCK + 1):
        pair = {
            "own": {"block_at": own[few] + 1e-6},
            "hosting": {"block_at": shared[BLOCK - few] + 1e-6},
        }
        if reached(score, pair, hosting, "block_at")[harmless].sum() <= BLOCK:
            assert reached(score, pair, hosting, "block_at")[~harmless].sum() <= caught
    single = thresholds.chosen(score, harmless, np.zeros_like(hosting), {})
    assert single["own"] == single["hosting"]
    assert (score >= single["own"]["block_at"])[~harmless].sum() <= caught
    assert all(one["review_at"] <= one["block_at"] for one in found.values())


def test_a_large_slice_binds_and_a_small_one_does_not():
    score, harmless, hosting = rows(2)
    worst = np.argsort(-np.where(harmless & ~hosting, score, -1))[:8]
    free = thresholds.chosen(score, harmless, hosting, {})
    blocked = reached(score, free, hosting, "block_at")[worst].sum()
    group = np.zeros_like(harmless)
    group[worst] = True
    group[: SLICE_ROWS - 9] = True
    size = int(group.sum())
    assert size < SLICE_ROWS
    assert thresholds.chosen(score, harmless, hosting, {"few": group}) == free
    group[OWN : OWN + 50] = True
    assert group.sum() >= SLICE_ROWS
    bound = thresholds.chosen(score, harmless, hosting, {"many": group})
    allowed = thresholds.allowed(5e-4, int(group.sum()))
    assert blocked > allowed
    assert reached(score, bound, hosting, "block_at")[group].sum() <= allowed


def test_ties_at_the_top_are_not_blocked():
    """
    Harmless rows that share the highest score that there is leave no threshold but one above it.
    """
    score, harmless, hosting = rows(3)
    score[:BLOCK] = 1.0
    score[OWN : OWN + BLOCK] = 1.0
    score[-5:] = 1.0
    found = thresholds.chosen(score, harmless, hosting, {})
    assert reached(score, found, hosting, "block_at")[harmless].sum() <= BLOCK
    score[:HOSTING] = 1.0
    score[OWN : OWN + HOSTING] = 1.0
    found = thresholds.chosen(score, harmless, hosting, {})
    assert {one["block_at"] for one in found.values()} == {NEVER}


@pytest.mark.parametrize("few", [0, 1, SLICE_ROWS - 1])
def test_hosting_without_harmless_rows_to_tell_has_the_same_thresholds(few):
    score, harmless, hosting = rows(4)
    hosting[OWN + few : OWN + HOSTING] = False
    found = thresholds.chosen(score, harmless, hosting, {})
    assert found["own"] == found["hosting"]
    assert 0 < (score >= found["own"]["block_at"])[harmless].sum() <= BLOCK


def test_a_kind_is_not_wronged_beyond_measure():
    """
    Though the bound over all rows would allow it: hosting is small, and full of fraud.
    """
    score, harmless, hosting = rows(5, own_shift=-30)
    hosting[OWN : OWN + HOSTING - 7000] = False
    found = thresholds.chosen(score, harmless, hosting, {})
    most = int(thresholds.UNEVEN * thresholds.REVIEW_FPR * 7000)
    assert 0 < reached(score, found, hosting, "review_at")[harmless & hosting].sum() <= most


def test_the_curve_has_the_prior_and_the_order():
    score, harmless, _ = rows(6)
    raw = np.log(score / (1 - score))
    label = (~harmless).astype(np.int8)
    knots = thresholds.calibrated(raw, label)
    found = thresholds.probabilities(raw, knots)
    weight = np.where(harmless, 0.95 / harmless.sum(), 0.05 / (~harmless).sum())
    assert (found * weight).sum() == pytest.approx(thresholds.PRIOR, rel=0.05)
    assert [p for _, p in knots] == sorted(p for _, p in knots)
    with pytest.raises(ValueError, match="below harmless"):
        thresholds.calibrated(-raw, label)
