"""The rivals' benchmark: it compares like with like, and refuses what is not."""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the rivals need scikit-learn, of the extra train")

from benchmarks import results as records
from benchmarks.classify import __main__ as run
from benchmarks.classify import card as rivals_card
from benchmarks.classify import comparison, hybrid, linear, musts, plain
from benchmarks.load import BenchmarkError
from tests.classify import rows as synthetic
from urlguard.classify import features
from urlguard.classify.evaluation import bootstrap, metrics
from urlguard.classify.evaluation.metrics import Interval
from urlguard.classify.feature_list import BY_KIND
from urlguard.classify.training import card, pipeline, results, thresholds
from urlguard.classify.training import dataset as training

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
    return comparison.Problem(items, labels, tests, wanted, owners)


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
    assert metrics.roc_auc(task.wanted, scores) > 0.8
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
    assert metrics.roc_auc(labels, before) > metrics.roc_auc(labels, ours)


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
    found = comparison.compare(
        task, ours, {"same": margin, "worse": worse}, {"same": 2.0}, rounds=60
    )
    named = {each.name: each for each in found}
    assert list(named)[:3] == [comparison.OURS, "same", "worse"]
    assert len(found) == 3 + 2 * 2
    value, interval = named["same"].ratios[0]
    assert (value, interval.low, interval.high) == (1.0, 1.0, 1.0)
    value, interval = named["worse"].ratios[0]
    assert value > 1
    assert interval.low <= value <= interval.high
    rows = run.record("name", 10, COUNT, found)
    assert len(rows) == len(found) * 4 + (len(found) - 1) * 3
    assert {"value", "value_low", "value_high"} <= rows[0].keys() & rows[1].keys()
    own = {key for row in rows for key in row} - {"value", "value_low", "value_high"}
    assert own <= set(records.COLUMNS)


def test_nothing_found_by_a_rival_is_no_error():
    """
    A ratio to nothing is infinite, of nothing to nothing unknown, and both are said.
    """
    hit, miss = metrics.Share(5, 10), metrics.Share(0, 10)
    none = metrics.Share(0, 100)
    we = metrics.Point(0.01, 0.5, none, hit)
    they = metrics.Point(0.01, 0.5, none, miss)
    zero = np.zeros(10)
    value, interval = comparison.ratio(we, they, np.full(10, 0.5), zero)
    assert value == interval.low == interval.high == np.inf
    value, interval = comparison.ratio(they, they, zero, zero)
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
        comparison.compare(task, ours, {"plain": theirs}, {}, rounds=2)


@pytest.mark.slow
def test_linear_marks_begin_and_end():
    """
    The same letters in another place are another sign.
    """
    items = [f"{n}pay.example" for n in range(50)] + [f"pay{n}.example" for n in range(50)]
    labels = [0] * 50 + [1] * 50
    scores = linear.fit_predict(items, labels, ["77pay.example", "pay77.example"])
    assert scores[1] > scores[0]


def test_rivals_learn_from_the_rows_that_train_ours(tmp_path):
    """
    The split of the training, whose undated fraud neither trains nor tests.
    """
    data = synthetic.write(tmp_path, 400)
    for kind in ("name", "url"):
        rows = training.load(data, kind)
        parts = training.split(rows)
        task = run.problem(data, kind)
        assert task.items == [rows.text[n] for n in parts.train]
        assert task.tests == [rows.text[n] for n in parts.test]
        assert task.owners.tolist() == [rows.owner[n] for n in parts.test]
        assert {rows.text[n] for n in parts.undated}.isdisjoint([*task.items, *task.tests])
        assert parts.undated.size
        fewer = run.problem(data, kind, 50)
        assert len(fewer.items) == len(fewer.labels) == 50
        assert fewer.tests == task.tests


# -- what was asked for ----------------------------------------------------------------------------


def reached(name, *ratios):
    """A classifier with such ratios at 1 %, 0.1 % and 0.01 %."""
    hit = metrics.Share(5, 10)
    points = [
        metrics.Point(rate, 0.5, metrics.Share(0, 100), hit, Interval(0.4, 0.6))
        for rate in comparison.RATES
    ]
    pairs = [(value, Interval(value / 2, value * 2)) for value in ratios]
    return comparison.Found(name, 0.8, Interval(0.7, 0.9), points, pairs, 1.0)


def test_ratios_that_were_asked_for_are_judged():
    """
    A ratio at its must is met, one below is missed, and a rival that did not run says nothing.
    """
    found = [
        reached(comparison.OURS),
        reached("plain", 1.0, 1.35, 1.29),
        reached("linear", 9, 9, 9),
    ]
    judged = musts.evaluated("name", found)
    assert [each.met for each in judged] == [True, False, None]
    assert [str(each).partition(":")[0] for each in judged] == ["met", "missed", "not measured"]
    assert "1.29 [0.65, 2.58]; must ≥ 1.3, aim ≥ 1.8" in str(judged[1])
    rows = {(row["server"], row["case"]): row for row in run.record("name", 10, 20, found)}
    passed = {key: row["passed"] for key, row in rows.items() if row.get("passed")}
    assert passed == {
        ("plain", "name: TPR at FPR 0.1 %, UrlGuard by it"): "yes",
        ("plain", "name: TPR at FPR 0.01 %, UrlGuard by it"): "no",
    }


def test_a_ratio_to_nothing_is_met_and_one_of_nothing_is_not():
    """
    Whoever finds something where a rival finds nothing has found enough.
    """
    found = [reached("plain", 1.0, np.inf, np.nan)]
    assert [each.met for each in musts.evaluated("url", found)] == [True, False]


def test_musts_are_at_rates_that_are_measured():
    """
    Of rivals that there are; and an aim is no less than a must.
    """
    for each in [one for kind in ("name", "url") for one in musts.MUSTS[kind]]:
        assert each.rival in run.RIVALS
        assert each.fpr in comparison.RATES
        assert each.aim >= each.least


# -- the card --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """
    A folder of data, and of a model in the place of ours: its scores and its true card.

    What gives the scores is the linear rival, for a training would take longer than all this.
    """
    folder = tmp_path_factory.mktemp("trial")
    data = synthetic.write(folder / "data")
    rows = training.load(data, "name")
    parts = training.split(rows)
    texts = [rows.text[n] for n in parts.test]
    margins = linear.fit_predict(
        [rows.text[n] for n in parts.train], rows.label[parts.train], texts
    )
    score = np.round(1 / (1 + np.exp(-margins)), 6)
    np.savez_compressed(folder / "ours.npz", text=texts, label=rows.label[parts.test], score=score)
    limits = {"block_at": 0.9, "review_at": 0.5}
    limits = {"own": limits, "hosting": limits}
    hosting = np.zeros(len(score), dtype=bool)
    scored = results.Scored(rows, parts.test, score, hosting, limits, thresholds.PRIOR)
    said = {
        "format": 1,
        "name": "name-2026-11-24",
        "kind": "name",
        "made": "2026-11-24",
        "command": "urlguard train",
        "features": [feature.name for feature in BY_KIND["name"]],
        "features_digest": features.digest("name"),
        "booster_sha256": "0" * 64,
        "tables_sha256": "0" * 64,
        "calibration": [[0.0, 0.5]],
        "thresholds": limits,
        "prior": thresholds.PRIOR,
        "sources": {"openphish": {"rows": 1, "trained": 1}},
        "split": {
            "calibrate_from": training.CALIBRATE_FROM,
            "test_from": training.TEST_FROM,
            "rows": {
                name: {
                    "fraud": int(rows.label[part].sum()),
                    "harmless": int((rows.label[part] == 0).sum()),
                }
                for name, part in parts._asdict().items()
            },
        },
        "metrics": card.metrics(results.measure(scored, 20), {}),
    }
    pipeline.write_card(SimpleNamespace(folder=folder, card=said))
    (folder / "name-2026-11-24.md").write_text(card.readable(said), "utf-8")
    return folder


@pytest.fixture
def model(trial, tmp_path):
    """A copy of the card and of the readable one, to be changed."""
    for path in trial.glob("name-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "name-2026-11-24.json"


def ran(monkeypatch, capsys, *arguments):
    """The command's code or last words, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.classify", *map(str, arguments)])
    monkeypatch.setattr(plain, "ROUNDS", 20)
    monkeypatch.setattr(comparison.compare, "__defaults__", (40,))
    try:
        run.main()
        code = 0
    except SystemExit as exc:
        code = exc.code
    return code, capsys.readouterr().out


@pytest.mark.slow
def test_rivals_stand_in_the_card(trial, model, monkeypatch, capsys):
    """
    The whole command: same rows as ours, figures as printed, a card like others, its page anew.
    """
    recorded = []
    monkeypatch.setattr(run.results, "write", lambda name, rows: recorded.extend(rows))
    before = json.loads(model.read_text("utf-8"))
    model.chmod(0o640)
    options = ["--ours", trial / "ours.npz", "--data", trial / "data", "--card", model]
    code, out = ran(monkeypatch, capsys, *options, "--rivals", "plain,linear")
    said = json.loads(model.read_text("utf-8"))
    found = said["metrics"].pop("rivals")
    assert said == before
    assert list(found) == ["plain", "linear", "command"]

    task = run.problem(trial / "data", "name")
    ours = run.our_scores(trial / "ours.npz", task)
    scores = linear.fit_predict(task.items, task.labels, task.tests)
    draws = [
        bootstrap.tpr_draws(task.wanted, each, comparison.RATES, task.owners, 40, comparison.SEED)
        for each in (ours, scores)
    ]
    assert found["linear"]["auc"] == pytest.approx(metrics.roc_auc(task.wanted, scores), abs=1e-6)
    assert found["linear"]["auc_drawn"][0] < found["linear"]["auc"] < 1
    for place, point in enumerate(found["linear"]["tpr"]):
        again = metrics.tpr_at_fpr(task.wanted, scores, point["fpr"])
        assert (point["hits"], point["rows"]) == (again.fraud.hits, again.fraud.rows)
        drawn = bootstrap.percentiles(draws[1][:, place])
        ends = (point["drawn_low"], point["drawn_high"])
        assert ends == pytest.approx((drawn.low, drawn.high), abs=1e-6)
        # In the place of ours are the scores of this very rival.
        assert found["linear"]["ratio"][place]["value"] == pytest.approx(1, abs=0.02)
    asked = {point["fpr"]: point for point in found["plain"]["ratio"] if "must" in point}
    assert {rate: point["must"] for rate, point in asked.items()} == {0.001: 1.35, 0.0001: 1.3}
    missed = [rate for rate, point in asked.items() if not point["met"]]
    assert (code != 0) is bool(missed)
    assert out.count("\nmissed: ") + out.count("\nmet: ") == 2
    assert "not measured: TPR at FPR 0.1 % by that of cnn" in out
    assert {row.get("passed") for row in recorded if row["server"] == "plain"} - {None, ""}

    # No place of anybody's folders, and it may be run again.
    assert found["command"].startswith("python -m benchmarks.classify --ours ours.npz --card name-")
    assert str(trial) not in model.read_text("utf-8")
    page = model.with_suffix(".md").read_text("utf-8")
    said["metrics"]["rivals"] = found
    assert page == card.readable(said)
    assert f"`{found['command']}`" in page
    beside = model.parent / "beside"
    beside.mkdir()
    pipeline.write_card(SimpleNamespace(folder=beside, card=said))
    assert (beside / model.name).read_bytes() == model.read_bytes()
    assert model.stat().st_mode & 0o777 == 0o640
    assert sorted(path.suffix for path in model.parent.iterdir() if path.is_file()) == [
        ".json",
        ".md",
    ]


def test_a_command_says_folders_as_they_were_given():
    """
    The default data stand in it no more than the default rivals.
    """
    options = argparse.Namespace(
        ours=Path("scores/a b.npz"), card=None, data=run.SHARED, kind="url", rivals="plain"
    )
    assert run.command(options) == (
        "python -m benchmarks.classify --ours 'scores/a b.npz' --kind url --rivals plain"
    )
    options.data, options.rivals = Path("../data"), ",".join(run.RIVALS)
    assert run.command(options).endswith("--data ../data --kind url")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "url"}, "of url model name-2026-11-24; must be of name"),
        ({"name": "name-2026-11-25"}, "of name model name-2026-11-25; must be"),
        ({"metrics": {}}, "no 'trial'"),
        ({"auc": 0.75}, "ROC-AUC 0.750000; the scores have"),
        ({"harmless": 7}, "and 7 harmless rows"),
    ],
)
def test_another_models_card_is_refused_before_rivals_train(
    change, words, trial, model, monkeypatch, capsys
):
    """
    Figures beside one model never come into the card of another, and nobody waits to hear it.
    """
    said = json.loads(model.read_text("utf-8"))
    target = said["metrics"]["trial"]["all"] if {"auc", "harmless"} & change.keys() else said
    target |= change
    model.write_text(json.dumps(said), "utf-8")
    before = {path: path.read_bytes() for path in model.parent.iterdir()}
    monkeypatch.setattr(linear, "fit_predict", None)
    options = ["--ours", trial / "ours.npz", "--data", trial / "data", "--card", model]
    code, _ = ran(monkeypatch, capsys, *options, "--rivals", "linear", "--no-record")
    assert words in code
    assert {path: path.read_bytes() for path in model.parent.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[]", "7", '"x"', "{", "[" * 100_000])
def test_what_is_no_card_is_refused(text, task, model):
    """
    With its name, and not with a trace.
    """
    model.write_text(text, "utf-8")
    with pytest.raises(BenchmarkError, match=model.name):
        rivals_card.read(model, "name", task, np.zeros(COUNT))


def test_a_card_that_changed_meanwhile_is_left_alone(model):
    """
    Who trained a model anew while rivals trained keeps its card.
    """
    before = model.read_bytes()
    model.write_bytes(before + b"\n")
    with pytest.raises(BenchmarkError, match="has changed since"):
        rivals_card.write(model, before, {"command": "x"})
    assert model.read_bytes() == before + b"\n"


def test_a_card_that_cannot_be_written_stays(model, monkeypatch):
    """
    A full disk leaves both cards as they were, and nothing beside them.
    """
    before = {path: path.read_bytes() for path in model.parent.iterdir()}

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rivals_card.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rivals_card.write(model, before[model], {"command": "x"})
    assert {path: path.read_bytes() for path in model.parent.iterdir()} == before


def test_what_is_infinite_is_null_in_a_card():
    """
    JSON knows no infinity; readers of a card would refuse it.
    """
    said = rivals_card.figures("url", [reached("plain", 1.0, np.inf, np.nan)], ["plain"], "x")
    assert [point["value"] for point in said["plain"]["ratio"]] == [1.0, None, None]
    assert [point.get("met") for point in said["plain"]["ratio"]] == [None, True, False]
    json.dumps(said, allow_nan=False)


def test_few_rows_make_no_card(monkeypatch, capsys):
    """
    Rivals that were trained for a try stand in no card.
    """
    options = ["--ours", "x.npz", "--card", "x.json", "--rows", "10"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.classify", *options])
    with pytest.raises(SystemExit):
        run.main()
    assert "--rows only" in capsys.readouterr().err
