"""The rivals' benchmark: it compares like with like, and refuses what is not."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the rivals need scikit-learn, of the extra train")

from benchmarks import results
from benchmarks.classify import __main__ as run
from benchmarks.classify import hybrid, linear, plain
from benchmarks.load import BenchmarkError
from urlguard.classify import measures

COUNT = 1200


def texts(seed, count=COUNT):
    """Names whose fraud is told by one word in four fifths of them; labels beside them."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int8)
    items = []
    for number, label in enumerate(labels):
        letters = "".join(random.choice(list("bcdefghijk"), 6))
        word = "login" if random.uniform() < (0.8 if label else 0.05) else "garden"
        items.append(f"{letters}-{word}{number}.example")
    return items, labels


@pytest.fixture(scope="module")
def task():
    """A problem with owners of two rows each."""
    items, labels = texts(1)
    tests, wanted = texts(2)
    owners = np.array([f"{'bad' if y else 'good'}{n // 4}" for n, y in enumerate(wanted)])
    return run.Problem(items, labels, tests, wanted, owners)


def fitted(module, task):
    """A rival's scores."""
    steps = []
    scores = module.fit_predict(
        task.items, task.labels, task.tests, lambda *step: steps.append(step)
    )
    assert steps[-1][1] == steps[-1][2]
    return scores


@pytest.mark.parametrize("name", run.RIVALS)
def test_every_rival_learns(name, task, monkeypatch):
    """
    A rival finds what the letters tell, gives each test a score, and the same ones again.
    """
    if name == "cnn":
        pytest.importorskip("torch", reason="the CNN needs PyTorch, of the extra rivals")
    module = run.importlib.import_module(f"benchmarks.classify.{name}")
    if name == "plain":
        monkeypatch.setattr(module, "ROUNDS", 20)
    if name == "cnn":
        # Small, and in one thread: of so little work others' share is waiting for each other.
        monkeypatch.setattr(module, "THREADS", 1)
        monkeypatch.setattr(module, "EPOCHS", 6)
        monkeypatch.setattr(module, "BATCH", 32)
        monkeypatch.setattr(module.Net, "FILTERS", 16)
    scores = fitted(module, task)
    assert scores.shape == (COUNT,)
    assert measures.roc_auc(task.wanted, scores) > 0.8
    assert np.array_equal(scores, fitted(module, task))


def test_grams_and_counts_of_the_plain_rival():
    """
    Each n-gram is counted as often as it stands there, and path and query are no part of the host.
    """
    assert list(plain.grams("ab")) == ["^a", "ab", "b$", "^ab", "ab$", "^ab$"]
    made = plain.table(["aaaa.example", "a1-b.example/x?y=1&z=%20"]).toarray()
    assert made.shape == (2, plain.COLUMNS + plain.COUNTS)
    assert made[0, plain.zlib.crc32(b"aa") % plain.COLUMNS] >= 3
    assert made[0, : plain.COLUMNS].sum() == len(list(plain.grams("aaaa.example")))
    host, labels, longest, digits = made[1, plain.COLUMNS :][:4]
    assert (host, labels, longest, digits) == (12, 2, 7, 1)
    assert plain.counts("a.example?q")[9] == len("?q")
    assert plain.table([]).shape == (0, plain.COLUMNS + plain.COUNTS)


def test_a_blend_never_scores_owners_that_it_was_fitted_on():
    """
    Labels turned round in one half change the other half's scores, and not its own.
    """
    random = np.random.default_rng(3)
    labels = np.arange(400) % 2
    ours, theirs = random.normal(labels, 1), random.normal(labels, 1)
    owners = np.array([f"o{n // 4}" for n in range(400)])
    half = np.array([hybrid.zlib.crc32(owner.encode()) & 1 for owner in owners], dtype=bool)
    before = hybrid.blend(labels, ours, theirs, owners)
    after = hybrid.blend(np.where(half, 1 - labels, labels), ours, theirs, owners)
    assert np.array_equal(before[half], after[half])
    assert not np.isclose(before[~half], after[~half]).any()
    assert measures.roc_auc(labels, before) > measures.roc_auc(labels, ours)


def test_ranks_do_not_care_for_the_scale():
    """
    Only the order of each score counts, and ties stay ties.
    """
    ours, theirs = np.array([0.1, 0.5, 0.5, 0.9]), np.array([-3.0, 8.0, 8.0, 2.0])
    found = hybrid.mean_of_ranks(ours, theirs)
    assert np.array_equal(found, hybrid.mean_of_ranks(ours * 7, np.exp(theirs)))
    assert found.tolist() == [0.25, 0.75, 0.75, 0.75]


def test_log_odds_of_rounded_certainty_are_finite():
    """
    A probability rounded to 0 or 1 is not beyond all others.
    """
    found = hybrid.log_odds([0.0, 0.5, 1.0])
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx(0)
    assert found[0] == pytest.approx(-found[2])


def test_the_comparison_is_paired(task):
    """
    A rival as good as ours has a ratio of 1 with no width, whatever the draws; a worse one more.
    """
    random = np.random.default_rng(4)
    margin = random.normal(task.wanted * 1.5, 1)
    ours = 1 / (1 + np.exp(-margin))
    worse = margin + random.normal(0, 1, margin.size)
    found = run.compare(task, ours, {"same": margin, "worse": worse}, {"same": 2.0}, rounds=60)
    named = {each.name: each for each in found}
    assert list(named)[:3] == [run.OURS, "same", "worse"]
    assert len(found) == 3 + 2 * 2
    value, interval = named["same"].ratios[0]
    assert (value, interval.low, interval.high) == (1.0, 1.0, 1.0)
    value, interval = named["worse"].ratios[0]
    assert value > 1
    assert interval.low <= value <= interval.high
    rows = run.record("name", 10, COUNT, found)
    assert len(rows) == len(found) * 4 + (len(found) - 1) * 3
    assert {"value", "value_low", "value_high"} <= rows[1].keys()
    own = {key for row in rows for key in row} - {"value", "value_low", "value_high"}
    assert own <= set(results.COLUMNS)


def test_nothing_found_by_a_rival_is_no_error():
    """
    A ratio to nothing is infinite, of nothing to nothing unknown, and both are said.
    """
    hit, miss = measures.Share(5, 10), measures.Share(0, 10)
    none = measures.Share(0, 100)
    we = measures.Point(0.01, 0.5, none, hit)
    they = measures.Point(0.01, 0.5, none, miss)
    zero = np.zeros(10)
    value, interval = run.ratio(we, they, np.full(10, 0.5), zero)
    assert value == interval.low == interval.high == np.inf
    value, interval = run.ratio(they, they, zero, zero)
    assert np.isnan(value)
    assert (interval.low, interval.high) == (0.0, np.inf)


def saved(path, task, **changes):
    """Our scores as ``urlguard evaluate`` saves them, in another order."""
    order = np.random.default_rng(5).permutation(len(task.tests))
    arrays = {
        "text": np.array(task.tests)[order],
        "label": task.wanted[order],
        "score": np.linspace(0, 1, len(task.tests))[order],
        **changes,
    }
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


def test_our_scores_are_put_in_order(task, tmp_path):
    """
    The file's rows may stand in any order.
    """
    found = run.our_scores(saved(tmp_path / "s.npz", task), task)
    assert found == pytest.approx(np.linspace(0, 1, len(task.tests)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": None}, "no array score"),
        ({"text": np.array([f"{n}.example" for n in range(COUNT)])}, "no score for test row"),
        ({"label": np.ones(COUNT, dtype=np.int8)}, "has label 1, here it is 0"),
        ({"score": np.full(COUNT, 2.0)}, "must be 0 to 1"),
        ({"score": np.full(COUNT, np.nan)}, "must be 0 to 1"),
    ],
)
def test_scores_of_other_rows_are_refused(changes, words, task, tmp_path):
    """
    Rivals are never compared with a model that was measured on something else.
    """
    with pytest.raises(BenchmarkError, match=words):
        run.our_scores(saved(tmp_path / "s.npz", task, **changes), task)


@pytest.mark.parametrize("constant", [True, False])
def test_a_rival_that_learnt_nothing_or_knows_the_answers_fails(constant, task):
    """
    Neither a broken rival nor a leak of labels makes a figure.
    """
    random = np.random.default_rng(6)
    ours = 1 / (1 + np.exp(-random.normal(task.wanted, 1)))
    theirs = np.zeros(COUNT) if constant else task.wanted.astype(float)
    with pytest.raises(BenchmarkError, match="ROC-AUC"):
        run.compare(task, ours, {"plain": theirs}, {}, rounds=2)


def test_linear_marks_begin_and_end():
    """
    The same letters in another place are another sign.
    """
    items = [f"{n}pay.example" for n in range(50)] + [f"pay{n}.example" for n in range(50)]
    labels = [0] * 50 + [1] * 50
    scores = linear.fit_predict(items, labels, ["77pay.example", "pay77.example"])
    assert scores[1] > scores[0]
