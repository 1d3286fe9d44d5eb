"""Training and evaluation: from CSV files to models with true cards, and what is refused."""

import csv
import fcntl
import gzip
import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the extra train")

from tests.classify import rows as synthetic
from urlguard.classify import measures
from urlguard.classify.model import Model
from urlguard.classify.training import card, files, job, orphans, rows
from urlguard.classify.training.rows import DataError

SCRIPT = Path(sys.executable).with_name("urlguard")
NAME, URL = "name-2026-11-24", "url-2026-11-24"


def urlguard(*arguments, cwd):
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1"},
        timeout=300,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both models, trained once by the command; all of pytest's processes share the folder."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "trained"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done.json").exists():
            synthetic.write(folder / "data")
            options = ["--version", "2026-11-24", "--report", "r.html", "--scores", "scores"]
            done = urlguard("train", "--data", folder / "data", *options, cwd=folder)
            said = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
            (folder / "done.json").write_text(json.dumps(said))
    return folder


@pytest.fixture
def said(trained):
    """What the training printed."""
    return json.loads((trained / "done.json").read_text())


# -- train -----------------------------------------------------------------------------------------


def test_one_command_makes_both_models(trained, said):
    """
    Four files each and nothing else; they open, and tell fraud from what is harmless.
    """
    assert said["code"] == 0, said["err"]
    names = {path.name for path in (trained / "models").iterdir()}
    assert names == {f"{name}{end}" for name in (NAME, URL) for end in job.SUFFIXES}
    model = Model.open(trained / "models", "name")
    assert model.score("login-abcdefg77.top") > 10 * model.score("abcdefgarden.org")


def test_progress_and_figures_are_told(said):
    """
    Steps with their time on stderr, what was made and each target on stdout; nobody's folders.
    """
    assert "name: trial: trees" in said["err"]
    assert "Traceback" not in said["err"]
    assert f"{NAME}: in models, " in said["out"]
    assert "TPR at FPR 0.01 %: " in said["out"]
    assert "recall kept under mutations ≥ 70 %" in said["out"]


def test_figures_of_the_card_are_those_of_the_scores(trained):
    """
    The kept scores, measured once more, give the figures that the card has.
    """
    said = json.loads((trained / "models" / f"{NAME}.json").read_text())
    with np.load(trained / "scores" / f"{NAME}.npz") as file:
        text, label, score = file["text"], file["label"], file["score"]
    found = said["metrics"]["trial"]["all"]
    assert (found["fraud"], found["harmless"]) == ((label == 1).sum(), (label == 0).sum())
    assert found["auc"] == pytest.approx(measures.roc_auc(label, score), abs=1e-6)
    for point in found["tpr"]:
        again = measures.tpr_at_fpr(label, score, point["fpr"])
        assert (point["hits"], point["rows"]) == (again.fraud.hits, again.fraud.rows)
    # Own domains and shared hosting have thresholds of their own.
    shared = np.array([name.endswith((".pages.dev", ".github.io")) for name in text])
    limits = {where: said["thresholds"][where]["block_at"] for where in ("own", "hosting")}
    assert set(limits) == {"own", "hosting"}
    assert found["fraud"] == sum(
        line["block_at"]["rows"] for line in said["metrics"]["trial"]["months"].values()
    )
    hosting = said["metrics"]["trial"]["slices"]["shared hosting"]["block_at"]
    assert hosting["rows"] == (shared & (label == 0)).sum()


def test_test_rows_are_newer_and_of_other_owners(trained):
    """
    The scores kept are of rows that no part before has seen an owner or a month of.
    """
    with np.load(trained / "scores" / f"{URL}.npz") as file:
        tested = set(map(str, file["text"]))
    found = rows.load(trained / "data", "url")
    parts = rows.split(found)
    assert tested == {found.text[n] for n in parts.test}
    assert not {found.owner[n] for n in parts.test} & {found.owner[n] for n in parts.train}
    assert min(found.first_seen[n] for n in parts.test if found.label[n]) >= rows.TEST_FROM


def test_noncommercial_sources_never_train(trained):
    """
    The card says of each source how many rows trained; of some, none.
    """
    said = json.loads((trained / "models" / f"{NAME}.json").read_text())
    for name, counts in said["sources"].items():
        assert counts["trained"] == (0 if name in rows.NONCOMMERCIAL else counts["rows"])
    assert {"gsb-inversion", "deepurlbench-benign"} <= said["sources"].keys()


def test_the_readable_card_has_it_all(trained):
    """
    Licences, counts, split, thresholds, slices, sources, months, families, mutations, features.
    """
    said = json.loads((trained / "models" / f"{NAME}.json").read_text())
    page = (trained / "models" / f"{NAME}.md").read_text()
    assert page == card.readable(said)
    trial = said["metrics"]["trial"]
    for part in ("slices", "sources", "months", "families", "mutations", "mutations_unhardened"):
        assert trial[part]
        assert all(f"| {name}" in page for name in trial[part])
    assert f"{said['thresholds']['own']['block_at']:.6f}" in page
    assert f"{said['split']['rows']['test']['fraud']:,}" in page
    assert "CC BY-NC-SA 4.0" in page
    assert "gsb-inversion *" in page
    added = said["metrics"]["added"]
    assert all(f"{added[key]['auc']:.4f}" in page for key in ("without", "beside"))
    assert added["without"]["fraud"] == added["beside"]["fraud"] > 0
    assert said["command"] in page
    assert all(f"`{name}`" in page for name in said["features"])
    assert str(trained) not in page


def test_the_report(trained):
    """
    One page for both models, with every section.
    """
    page = (trained / "r.html").read_text()
    for words in (NAME, URL, "Hostile mutations", "DGA families", "Calibration", "conficker"):
        assert words in page


def test_the_same_rows_give_the_same_model(trained, tmp_path):
    """
    Octet by octet, with the figures.
    """
    task = job.Task("name", trained / "data", tmp_path, "2026-11-24", "urlguard train --data data")
    steps = []
    result = job.run(task, steps.append)
    assert steps[-1] == "measured"
    assert result.run.title == NAME
    for end in (".txt", ".tables"):
        path = f"{NAME}{end}"
        assert (tmp_path / path).read_bytes() == (trained / "models" / path).read_bytes()
    said = [
        json.loads((folder / f"{NAME}.json").read_text())["metrics"]
        for folder in (tmp_path, trained / "models")
    ]
    assert said[0] == said[1]


def test_a_process_that_dies_is_no_model(tmp_path, monkeypatch):
    """
    Whatever kills the training, the command hears of it instead of waiting.
    """
    monkeypatch.setattr(job, "_child", os.abort)  # called with arguments that it does not take
    task = job.Task("name", tmp_path, tmp_path, "2026-11-24", "")
    with pytest.raises(job.TrainingError, match=r"name-2026-11-24: .* ended with code"):
        job.run(task, print)


def _hold(answers):
    """A process with a pool, as a training has one; waits to be killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=orphans.end_with_parent) as pool:
        answers.send(pool.submit(os.getpid).result())
        time.sleep(60)


def test_helpers_of_a_training_that_was_killed_end():
    """
    Nobody is left waiting for work from a process that is gone.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    holder = context.Process(target=_hold, args=(theirs,))
    holder.start()
    assert ours.poll(30)
    helper = ours.recv()
    holder.kill()
    holder.join()
    deadline = time.monotonic() + 10
    while _alive(helper):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(process):
    """False also for one that has ended and waits to be reaped by whoever adopted it."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_publishing_replaces_the_card_last(tmp_path, monkeypatch):
    """
    If it ends half-way, the old card stands, and its digests fit no new file.
    """
    new, out = tmp_path / "new", tmp_path / "out"
    for folder in (new, out):
        folder.mkdir()
        for end in job.SUFFIXES:
            (folder / f"{NAME}{end}").write_text(folder.name)
    moved = []
    replace = Path.replace

    def failing(path, target):
        if path.suffix == ".json":
            raise OSError("the disk is gone")
        moved.append(path.suffix)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="gone"):
        job.publish(new, out, NAME)
    assert moved == [".tables", ".txt", ".md"]
    assert (out / f"{NAME}.json").read_text() == "out"
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        job.publish(new, out, NAME)


# -- bad data --------------------------------------------------------------------------------------


def data(folder, change, kind="name"):
    """Training data with one change to the lines of a file."""
    synthetic.write(folder, 60)
    path = folder / files.TRAINING[kind]
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    with gzip.open(path, "wt") as file:
        file.writelines(change(lines))
    return folder


def line(number, text):
    """Puts a line in the place of another."""
    return lambda lines: [*lines[: number - 1], f"{text}\n", *lines[number:]]


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("name", line(7, "a.example,2,x,y,2025-01-01"), r"line 7: label '2'; must be 0 or 1"),
        ("name", line(8, "two words,1,x,y,2025-01-01"), r"line 8: name .*two words"),
        ("name", line(9, "Evil.Example,1,x,y,2025-01-01"), r"line 9: .*must be evil\.example"),
        ("name", line(3, "a.example,1,x"), r"line 3: 3 columns; the header has 5"),
        ("name", line(4, "a.example,1,x,y,2025-13-01"), r"line 4: first_seen '2025-13-01'"),
        ("name", line(4, "a.example,1,x,,2025-12-01"), r"line 4: no source"),
        ("name", line(1, "host,label,category,source,first_seen"), "no column domain"),
        ("name", lambda lines: lines[:1], "0 rows of fraud, 0 harmless"),
        ("name", lambda lines: [x for x in lines if ",1," not in x], "0 rows of fraud"),
        ("url", line(6, "a b/x,1,x,y,2025-01-01"), r"train_urls.csv.gz, line 6: "),
        ("url", line(1, "url,label"), "line 2: 5 columns; the header has 2"),
        ("url", line(1, "url,label,category,source,day"), "no column first_seen"),
    ],
)
def test_a_bad_line_is_told_before_training_begins(kind, change, words, tmp_path):
    """
    File, line, what stands there and what may.
    """
    with pytest.raises(DataError, match=words):
        files.check(data(tmp_path, change, kind))


def test_files_that_are_none(tmp_path):
    """
    A missing file, one that ends in the middle, one that is not UTF-8: one line each.
    """
    folder = synthetic.write(tmp_path / "d", 60)
    assert files.check(folder) == {
        "train_domains.csv.gz": 60, "train_urls.csv.gz": 60, "popular_fqdns.csv.gz": 100,
    }  # fmt: skip
    path = folder / "train_urls.csv.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="not a whole gzip file"):
        files.check(folder)
    path.write_bytes(gzip.compress(b"url,label\n\xff\xfe,1\n"))
    with pytest.raises(DataError, match="not UTF-8"):
        files.check(folder)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        files.check(folder)
    path = folder / "own.csv"
    path.write_text("host,label\na.example,1\n")
    with pytest.raises(DataError, match="exactly one of domain, url must be there"):
        files.kind_of(path)
    path.write_text("domain,label\n")
    with pytest.raises(DataError, match="no rows"):
        files.kind_of(path)


# -- evaluate --------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A file of somebody's own: names and labels, and one source."""
    path = tmp_path / "own.csv"
    made = [(name.upper(), label) for name, label, *_ in synthetic.names(120, seed=9)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "domain", "source"])
        writer.writerows((label, name, "mine\x1b[2J") for name, label in made)
    return path


def test_evaluate_measures_what_the_model_says(trained, own):
    """
    The figures are those of the model's own scores of the canonical names.
    """
    done = urlguard("evaluate", own, "--models", "models", "--json", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "flatter" in done.stderr
    said = json.loads(done.stdout)
    model = Model.open(trained / "models", "name")
    assert said["model"] == model.ident
    made = synthetic.names(120, seed=9)
    judged = [(model.judge(name), label) for name, label, *_ in made]
    assert said["block_at"]["recall"]["hits"] == sum(
        action == "block" for (action, _), label in judged if label
    )
    assert said["review_at"]["false_positives"]["hits"] == sum(
        action != "none" for (action, _), label in judged if not label
    )
    score = [score for (_, score), _ in judged]
    label = [label for _, label in judged]
    assert said["all"]["auc"] == pytest.approx(measures.roc_auc(label, score), abs=1e-6)


def test_evaluate_in_words_and_as_a_page(trained, own, tmp_path):
    """
    Names and URLs in one call, plain or gzip; text from a file does not drive the terminal.
    """
    more = synthetic.table(tmp_path / "u.csv.gz", "url", synthetic.urls(80, seed=8))
    page = tmp_path / "page.html"
    options = ["--models", "models", "--report", page]
    done = urlguard("evaluate", own, more, *options, cwd=trained)
    assert done.returncode == 0, done.stderr
    assert f"{NAME}@" in done.stdout
    assert f"{URL}@" in done.stdout
    assert "recall" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x1b" not in page.read_text()
    assert "does not list" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["evaluate", "none.csv"], 1, "No such file"),
        (["evaluate", "own.csv", "--model", "url-2026-11-24"], 2, "must be of the same kind"),
        (["evaluate", "own.csv", "--model", "name-2020-01-01"], 1, "name-2020-01-01"),
        (["evaluate", "own.csv", "--models", "nowhere"], 1, "there must be one"),
        (["evaluate", "own.csv", "--report", "no/where.html"], 2, "does not exist"),
        (["evaluate", "good.csv", "--report", "r.html"], 2, "needs fraud and harmless rows"),
        (["evaluate", "bad.csv"], 1, "bad.csv, line 3: label 'yes'; must be 0 or 1"),
        (["train", "--data", "nowhere"], 1, "nowhere/train_domains.csv.gz: No such file"),
        (["train", "--data", ".", "--version", "today"], 2, "must be a date"),
        (["train", "--data", ".", "--report", "no/where.html"], 2, "does not exist"),
        (["train"], 2, "--data"),
    ],
)
def test_wrong_calls(trained, own, arguments, code, words):
    """
    One line that says what is wrong, and the exit code that all commands have for it.
    """
    here = own.parent
    (here / "good.csv").write_text("domain,label\na.example,0\nb.example,0\n")
    (here / "bad.csv").write_text("domain,label\na.example,0\nb.example,yes\n")
    if arguments[0] == "evaluate" and "--models" not in arguments:
        arguments = [*arguments, "--models", trained / "models"]
    done = urlguard(*arguments, cwd=here)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named(monkeypatch):
    """
    What is not installed is told with what installs it, before anything has begun.
    """
    from urlguard.cli import learn
    from urlguard.errors import UrlGuardError

    with pytest.raises(UrlGuardError, match=r"no_such_thing is not .* 'urlguard\[train\]'"):
        learn._need("numpy", "no_such_thing")
