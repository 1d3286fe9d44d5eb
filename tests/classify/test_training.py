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

from click.testing import CliRunner

from tests.classify import rows as synthetic
from urlguard import cli
from urlguard.classify.evaluation import metrics
from urlguard.classify.model import Model
from urlguard.classify.training import card, dataset, files, job
from urlguard.classify.training.dataset import DataError
from urlguard.cli import learn
from urlguard.processes import lifetime

SCRIPT = Path(sys.executable).with_name("urlguard")
MODELS = Path(__file__).parents[2] / "models"
NAME, URL = "name-2026-11-24", "url-2026-11-24"


def urlguard(*arguments, cwd):
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1"},
        timeout=1800,  # against a hang; a minute on a quiet machine
    )


@pytest.fixture
def called(monkeypatch):
    """``called(argument, …, cwd=folder)``: the command in this process."""
    # `train` sets a handler for the process that it has to itself.
    monkeypatch.setattr(learn.signal, "signal", lambda *_: None)

    def call(*arguments, cwd):
        monkeypatch.chdir(cwd)
        done = CliRunner().invoke(cli.main, list(map(str, arguments)))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """
    Both models, trained once by the command; all of pytest's processes share the folder.

    Takes most of a minute of processor time, so the tests that use it are slow.
    """
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


@pytest.mark.slow
def test_one_command_makes_both_models(trained, said):
    """
    Four files each and nothing else; they open, and tell fraud from what is harmless.
    """
    assert said["code"] == 0, said["err"]
    names = {path.name for path in (trained / "models").iterdir()}
    assert names == {f"{name}{end}" for name in (NAME, URL) for end in job.SUFFIXES}
    model = Model.open(trained / "models", "name")
    assert model.score("login-abcdefg77.top") > 10 * model.score("abcdefgarden.org")


@pytest.mark.slow
def test_progress_and_figures_are_told(said):
    """
    Steps with their time on stderr, what was made and each target on stdout; nobody's folders.
    """
    assert "name: trial: trees" in said["err"]
    assert "Traceback" not in said["err"]
    assert f"{NAME}: in models, " in said["out"]
    assert "TPR at FPR 0.01 %: " in said["out"]
    assert "recall kept when changed by tld_swap ≥ 70 %" in said["out"]


@pytest.mark.slow
def test_figures_of_the_card_are_those_of_the_scores(trained):
    """
    The kept scores, measured once more, give the figures that the card has.
    """
    said = json.loads((trained / "models" / f"{NAME}.json").read_text())
    with np.load(trained / "scores" / f"{NAME}.npz") as file:
        text, label, score = file["text"], file["label"], file["score"]
    found = said["metrics"]["trial"]["all"]
    assert (found["fraud"], found["harmless"]) == ((label == 1).sum(), (label == 0).sum())
    assert found["auc"] == pytest.approx(metrics.roc_auc(label, score), abs=1e-6)
    for point in found["tpr"]:
        again = metrics.tpr_at_fpr(label, score, point["fpr"])
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


@pytest.mark.slow
def test_test_rows_are_newer_and_of_other_owners(trained):
    """
    The scores kept are of rows that no part before has seen an owner or a month of.
    """
    with np.load(trained / "scores" / f"{URL}.npz") as file:
        tested = set(map(str, file["text"]))
    found = dataset.load(trained / "data", "url")
    parts = dataset.split(found)
    assert tested == {found.text[n] for n in parts.test}
    assert not {found.owner[n] for n in parts.test} & {found.owner[n] for n in parts.train}
    assert min(found.first_seen[n] for n in parts.test if found.label[n]) >= dataset.TEST_FROM


@pytest.mark.slow
def test_noncommercial_sources_never_train(trained):
    """
    The card says of each source how many rows trained; of some, none.
    """
    said = json.loads((trained / "models" / f"{NAME}.json").read_text())
    for name, counts in said["sources"].items():
        assert counts["trained"] == (0 if name in dataset.NONCOMMERCIAL else counts["rows"])
    assert {"gsb-inversion", "deepurlbench-benign"} <= said["sources"].keys()


@pytest.mark.slow
def test_the_readable_card_has_it_all(trained):
    """
    Licences, counts, split, thresholds, slices, sources, months, families, mutations, features.
    """
    said = json.loads((trained / "models" / f"{NAME}.json").read_text())
    page = (trained / "models" / f"{NAME}.md").read_text()
    assert page == card.readable(said)
    trial = said["metrics"]["trial"]
    for part in ("slices", "sources", "months", "mutations", "mutations_unhardened"):
        assert trial[part]
        assert all(f"| {name}" in page for name in trial[part])
    # Of no family a part tests: their one date is that of a collection.
    assert all(f"| {name}" in page for name in said["metrics"]["shipped"]["families"])
    assert {"conficker", "matsnu"} & said["metrics"]["shipped"]["families"].keys()
    assert f"{said['split']['rows']['undated']['fraud']:,}" in page
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


@pytest.mark.slow
def test_the_report(trained):
    """
    One page for both models, with every section.
    """
    page = (trained / "r.html").read_text()
    for words in (NAME, URL, "Hostile mutations", "DGA families", "Calibration", "conficker"):
        assert words in page


@pytest.mark.slow
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
    with ProcessPoolExecutor(1, context, initializer=lifetime.watch_parent) as pool:
        answers.send(pool.submit(os.getpid).result())
        time.sleep(60)


@pytest.mark.slow
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


def four(folder, text):
    """A folder with a model's four files, all of one text."""
    folder.mkdir()
    for end in job.SUFFIXES:
        (folder / f"{NAME}{end}").write_text(text)
    return folder


def texts(folder):
    """What is in a folder."""
    return {path.suffix: path.read_text() for path in folder.iterdir()}


def test_publishing_moves_the_card_last(tmp_path, monkeypatch):
    """
    Whoever reads it finds the other files in their places.
    """
    new, out = four(tmp_path / "new", "new"), tmp_path / "out"
    out.mkdir()
    moved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *a: (moved.append(a[0].suffix), replace(*a))[1])
    job.publish(new, out, NAME)
    assert moved == [".tables", ".txt", ".md", ".json"]
    assert texts(out) == dict.fromkeys(job.SUFFIXES, "new")


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("at", job.SUFFIXES)
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_is_published_half_way_is_taken_back(tmp_path, monkeypatch, old, at, error):
    """
    The model before is whole again; if there was none, there is none.
    """
    new, out = four(tmp_path / "new", "new"), tmp_path / "out"
    four(out, "old") if old else out.mkdir()
    replace = Path.replace

    def failing(path, target):
        moved = replace(path, target)
        if path.suffix == at and path.parent == new:
            raise error("the disk is gone")
        return moved

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(error, match="gone"):
        job.publish(new, out, NAME, force=True)
    assert texts(out) == (dict.fromkeys(job.SUFFIXES, "old") if old else {})
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        job.publish(new, out, NAME, force=True)
    assert texts(out) == (dict.fromkeys(job.SUFFIXES, "old") if old else {})


@pytest.mark.parametrize("end", job.SUFFIXES)
def test_a_model_is_replaced_on_demand_alone(tmp_path, end):
    """
    One file of that name is enough to keep all of it.
    """
    new, out = four(tmp_path / "new", "new"), tmp_path / "out"
    out.mkdir()
    assert job.existing(out, NAME) == []
    (out / f"{NAME}{end}").write_text("old")
    assert job.existing(out, NAME) == [out / f"{NAME}{end}"]
    with pytest.raises(job.TrainingError, match=r"is there already; .* without --force"):
        job.publish(new, out, NAME)
    assert texts(out) == {end: "old"}
    job.publish(new, out, NAME, force=True)
    assert texts(out) == dict.fromkeys(job.SUFFIXES, "new")


def _train_for_ever(out, answers):
    """A process with a training's folder; waits to be killed."""
    with job.workplace(out, print) as folder:
        (folder / "half.tables").write_text("x")
        answers.send(folder)
        time.sleep(60)


@pytest.mark.slow
def test_what_a_killed_training_left_is_removed(tmp_path):
    """
    Not before it is dead; and nothing that is not a training's folder.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    other = context.Process(target=_train_for_ever, args=(tmp_path, theirs))
    other.start()
    assert ours.poll(30)
    left = ours.recv()
    mine = tmp_path / ".training-material"
    mine.mkdir()
    (mine / "rows.csv").write_text("x")
    link = tmp_path / ".training-link"
    link.symlink_to(mine)
    (tmp_path / ".training-notes").write_text("x")
    empty = tmp_path / ".training-abcdefgh"
    empty.mkdir()
    said = []
    with job.workplace(tmp_path, said.append) as folder:
        assert folder != left
        assert (left / "half.tables").exists()
        assert said == []
    assert not folder.exists()
    assert not empty.exists()
    other.kill()
    other.join()
    with job.workplace(tmp_path, said.append):
        assert not left.exists()
    assert said == [f"removed {left.name}, which a training that was killed had left"]
    names = {".training-material", ".training-link", ".training-notes"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (mine / "rows.csv").exists()


def test_a_folder_swept_before_it_has_its_lock_is_made_anew(tmp_path, monkeypatch):
    """
    Two trainings that begin at once do not take each other's folder.
    """
    locked, seen = job._locked, []

    def swept(folder, flags=0):
        seen.append(folder)
        if len(seen) == 1:
            folder.rmdir()
        return locked(folder, flags)

    monkeypatch.setattr(job, "_locked", swept)
    with job.workplace(tmp_path, print) as folder:
        assert len(seen) == 2
        assert folder == seen[1]
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


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
        (
            "name",
            lambda lines: [*lines[:3], "a.example,1,x,y,2025-01-01\na.example,0,x,y,2025-01-01\n"],
            r"train_domains.csv.gz, line 5: 'a\.example' has label 0, and 1 in line 4; must have",
        ),
        ("name", line(1, "domain,label,source,source,first_seen"), "2 columns 'source'; may have"),
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


def test_the_table_of_popular_names_has_ranks(tmp_path):
    """
    A rank is a number that fits into one.
    """
    for rank in ("first", "-1", "9" * 5000, "", "٣"):
        folder = synthetic.write(tmp_path, 60)
        with gzip.open(folder / "popular_fqdns.csv.gz", "wt") as file:
            file.write(f"rank,fqdn\n1,a.example\n{rank},b.example\n")
        with pytest.raises(
            DataError, match=r"popular_fqdns.csv.gz, line 3: needs the columns rank"
        ):
            files.check(folder)


# -- a file of anybody's ---------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Limits that a test can reach."""
    monkeypatch.setattr(files, "MAX_OCTETS", 100_000)
    monkeypatch.setattr(files, "MAX_ROWS", 50)
    monkeypatch.setattr(files, "MAX_ROW", 1000)


def written(path, text):
    """A file, gzip if its name says so."""
    octets = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(octets) if path.suffix == ".gz" else octets)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_file_is_bounded(tmp_path, small, name):
    """
    Octets that come out of it, rows, and characters of a row: each with what is allowed.
    """
    head, row = "domain,label,category\n", "a.example,1,"
    path = tmp_path / name
    written(path, head + f"{row}x\n" * 50)
    assert len(list(files.read(path))) == 50
    written(path, head + f"{row}x\n" * 51)
    with pytest.raises(DataError, match=rf"{name}: more than 50 rows; may have 50"):
        list(files.read(path))
    written(path, head + f"{row}{'x' * 2000}\n" * 60)
    with pytest.raises(DataError, match=r"line 2: a row of more than 1,000 characters; may have"):
        list(files.read(path))
    # A quotation mark that is left open makes one row of many lines.
    written(path, f'{head}{row}"' + f"{row}x\n" * 100)
    with pytest.raises(DataError, match=r"a row of more than 1,000 characters"):
        list(files.read(path))
    written(path, head + "\n" * 200_000)
    with pytest.raises(
        DataError, match=r"more than 100,000 octets, decompressed; may have 100,000"
    ):
        list(files.read(path))
    written(path, "," * 2000)
    with pytest.raises(DataError, match=r"line 1: a row of more than 1,000 characters"):
        files.kind_of(path)


@pytest.mark.slow
def test_a_gzip_bomb_costs_no_memory(tmp_path):
    """
    A gigabyte of zeros in a megabyte is refused after the first row's worth of it.
    """
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1025):
            file.write(bytes(1 << 20))
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from urlguard.classify.training import files\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: list(files.read(Path(sys.argv[1])))\n"
        "except files.DataError as exc: print(exc)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said, kilobytes = done.stdout.splitlines()
    assert "a row of more than 1,048,576 characters" in said
    assert int(kilobytes) < 50_000


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, name):
    """
    Spreadsheets put one before everything.
    """
    path = written(tmp_path / name, "\ufeffdomain,label\r\nA.Example,1\r\n")
    assert files.kind_of(path) == "name"
    assert [(found.text, found.label) for found in files.read(path)] == [("a.example", 1)]


def test_only_files_are_read_as_data(tmp_path):
    """
    A pipe would be waited for.
    """
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"pipe\.csv: is no regular file; must be one"):
        files.kind_of(path)
    with pytest.raises(DataError, match="is no regular file"):
        files.kind_of(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("domain", "evil.example", "Evil.Example."),
        ("url", "evil.example/a", "https://EVIL.example/a#x"),
        ("url", "evil.example", "http://evil.example/"),
        ("url", "evil.example/%61", "evil.example/a"),
    ],
)
def test_an_item_has_one_label(tmp_path, column, one, other):
    """
    In whatever form it is written, in one file or two; the same label twice does no harm.
    """
    head = f"{column},label\n"
    both = written(tmp_path / "both.csv", f"{head}{one},1\nx.example,0\n{other},1\n{other},0\n")
    with pytest.raises(
        DataError, match=r"both\.csv, line 5: .* has label 0, and 1 in line 2; must"
    ):
        list(files.read(both))
    first = written(tmp_path / "first.csv", f"{head}{one},0\n")
    second = written(tmp_path / "second.csv", f"{head}y.example,0\n{other},1\n")
    labels = files.Labels()
    assert len(list(files.read(first, labels))) == 1
    with pytest.raises(DataError, match=r"second\.csv, line 3: .*, and 0 in .*first\.csv, line 2,"):
        list(files.read(second, labels))


def test_a_header_cannot_drive_the_terminal(tmp_path):
    """
    Escape sequences in it are shown, not sent.
    """
    path = written(tmp_path / "a.csv", "\x1b[2J,label\na.example,1\n")
    with pytest.raises(DataError, match=r"columns '\\x1b\[2J, label'") as caught:
        files.kind_of(path)
    assert str(caught.value).isprintable()


# -- calls that are refused before anything begins -------------------------------------------------


def test_a_version_that_is_there_is_refused_at_once(called, tmp_path):
    """
    Before the data is looked at, with what to do; and nothing is changed.
    """
    out = tmp_path / "models"
    out.mkdir()
    (out / "url-2026-11-24.txt").write_text("old")
    arguments = ["train", "--data", ".", "--version", "2026-11-24"]
    done = called(*arguments, cwd=tmp_path)
    assert done.exit_code == 2
    assert "url-2026-11-24.txt already exists; must be another version, such as 2026-11-24.2" in (
        done.stderr
    )
    assert "--force" in done.stderr
    for more in (["--kind", "name"], ["--force"]):
        done = called(*arguments, *more, cwd=tmp_path)
        assert done.exit_code == 1
        assert "train_domains.csv.gz: No such file" in done.stderr
    assert [path.name for path in out.iterdir()] == ["url-2026-11-24.txt"]


def test_a_report_that_cannot_be_written_is_told_at_once(called, tmp_path):
    """
    Also where permissions would allow it; the try leaves nothing behind and changes nothing.
    """
    for command in (["train", "--data", "."], ["evaluate", "none.csv"]):
        done = called(*command, "--report", f"{'x' * 300}.html", cwd=tmp_path)
        assert done.exit_code == 2
        assert "File name too long; must be a file that can be written" in done.stderr
        done = called(*command, "--report", "r.html", cwd=tmp_path)
        assert "No such file" in done.stderr
        assert not (tmp_path / "r.html").exists()
        (tmp_path / "old.html").write_text("old")
        done = called(*command, "--report", "old.html", cwd=tmp_path)
        assert "No such file" in done.stderr
        assert (tmp_path / "old.html").read_text() == "old"
    scores = tmp_path / "scores" / "name-2026-11-24.npz"
    scores.mkdir(parents=True)
    done = called(
        *["train", "--data", ".", "--version", "2026-11-24", "--scores", "scores"], cwd=tmp_path
    )
    assert done.exit_code == 2
    assert "--scores scores/name-2026-11-24.npz: Is a directory" in done.stderr


def test_a_folder_with_any_name_stands_in_the_command_of_the_card():
    """
    As a shell reads it, without signs that drive a terminal, and without anybody's path.
    """
    for path, shown in (
        ("data", "data"),
        ("/home/me/data", "data"),
        ("my data", "'my data'"),
        ("a\x1b[2J", r"'a\x1b[2J'"),
    ):
        command = learn._command(Path(path), "url", "2026-11-24")
        assert command == f"urlguard train --data {shown} --kind url --version 2026-11-24"


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


@pytest.mark.slow
def test_evaluate_measures_what_the_model_says(called, trained, own):
    """
    The figures are those of the model's own scores of the canonical names.
    """
    done = called("evaluate", own, "--models", "models", "--json", cwd=trained)
    assert done.exit_code == 0, done.stderr
    assert "owners in the model's training data cannot be recognised" in done.stderr
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
    assert said["all"]["auc"] == pytest.approx(metrics.roc_auc(label, score), abs=1e-6)


@pytest.mark.slow
def test_evaluate_tells_of_contradictions(called, trained, tmp_path):
    """
    An item with both labels is refused with both places; owners with both are counted.
    """
    first = written(tmp_path / "a.csv", "domain,label\na.evil.com,1\nb.evil.com,0\nc.net,0\n")
    done = called("evaluate", first, "--models", "models", "--json", cwd=trained)
    assert done.exit_code == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "both labels" in line]
    assert line.startswith("warning: 1 owners ")
    assert "2 rows in all" in line
    json.loads(done.stdout)
    good = written(tmp_path / "c.csv", "domain,label\na.evil.com,1\nb.evil.com,1\nc.net,0\n")
    done = called("evaluate", good, "--models", "models", cwd=trained)
    assert "both labels" not in done.stderr
    second = written(tmp_path / "b.csv", "domain,label\nA.Evil.com,0\n")
    done = called("evaluate", good, second, "--models", "models", cwd=trained)
    assert done.exit_code == 1
    assert "b.csv, line 2: 'a.evil.com' has label 0, and 1 in " in done.stderr


@pytest.mark.slow
def test_evaluate_needs_the_prior_of_the_card(called, trained, own, tmp_path):
    """
    A card without it, or with one that is none, is refused with its file.
    """
    for change, words in (
        ({}, "no 'prior'; a card must have it to be measured"),
        ({"prior": 1}, "prior 1.0; must be above 0 and below 1"),
    ):
        for path in (trained / "models").glob(f"{NAME}.*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        path = tmp_path / f"{NAME}.json"
        said = json.loads(path.read_text())
        del said["prior"]
        path.write_text(json.dumps({**said, **change}))
        done = called("evaluate", own, "--models", tmp_path, cwd=tmp_path)
        assert done.exit_code == 1
        assert f"{path}: {words}" in done.stderr


@pytest.mark.slow
def test_evaluate_in_words_and_as_a_page(called, trained, own, tmp_path):
    """
    Names and URLs in one call, plain or gzip; text from a file does not drive the terminal.
    """
    more = synthetic.table(tmp_path / "u.csv.gz", "url", synthetic.urls(80, seed=8))
    page = tmp_path / "page.html"
    options = ["--models", "models", "--report", page]
    done = called("evaluate", own, more, *options, cwd=trained)
    assert done.exit_code == 0, done.stderr
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
def test_wrong_calls(called, own, arguments, code, words):
    """
    One line that says what is wrong, and the exit code that all commands have for it.
    """
    here = own.parent
    (here / "good.csv").write_text("domain,label\na.example,0\nb.example,0\n")
    (here / "bad.csv").write_text("domain,label\na.example,0\nb.example,yes\n")
    if arguments[0] == "evaluate" and "--models" not in arguments:
        arguments = [*arguments, "--models", MODELS]
    done = called(*arguments, cwd=here)
    assert done.exit_code == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named(monkeypatch):
    """
    What is not installed is told with what installs it, before anything has begun.
    """
    from urlguard.errors import UrlGuardError

    with pytest.raises(UrlGuardError, match=r"no_such_thing is not .* 'urlguard\[train\]'"):
        learn._need("numpy", "no_such_thing")
