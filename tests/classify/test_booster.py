"""LightGBM's C library: the same numbers as its package, on one thread, and errors in words."""

import hashlib
import os
import subprocess
import sys
import textwrap

import lightgbm
import numpy
import pytest

from tests.classify import toy
from urlguard.classify.booster import Booster
from urlguard.errors import ModelError

ROWS = [toy.Extractor.name(None, name) for name in toy.names(500, seed=9)]


@pytest.fixture(scope="module")
def booster():
    """The toy model's trees."""
    return Booster(toy.trees())


def test_scores_are_those_of_the_package(booster):
    """
    The raw margins are LightGBM's own, to the last bit; one by one and in a batch.
    """
    package = lightgbm.Booster(model_str=toy.trees().decode())
    theirs = package.predict(numpy.array(ROWS), raw_score=True).tolist()
    assert [booster.raw(row) for row in ROWS] == theirs
    assert booster.raws(ROWS) == theirs
    assert len(set(theirs)) > 20
    assert booster.raws([]) == []


def test_missing_values_and_integers_are_numbers_too(booster):
    """
    NaN is LightGBM's missing value, and a row may hold integers.
    """
    assert booster.raw([10, 1, 0, 2]) == booster.raw([10.0, 1.0, 0.0, 2.0])
    row = [float("nan")] * 4
    assert booster.raws([row]) == [booster.raw(row)]


@pytest.mark.parametrize("row", [[], [1.0] * 3, [1.0] * 5, ["a"] * 4])
def test_a_row_of_another_length_is_refused(booster, row):
    """
    A row that is too short would be filled up with the one before: never.
    """
    for score in (booster.raw, lambda row: booster.raws([ROWS[0], row])):
        with pytest.raises(ValueError, match="row"):
            score(row)


def test_open_checks_the_digest(tmp_path):
    """
    A damaged text would end the process, so it is never parsed.
    """
    path = tmp_path / "name-1.txt"
    path.write_bytes(toy.trees())
    right = hashlib.sha256(toy.trees()).hexdigest()
    assert Booster.open(path, right).features == 4
    path.write_bytes(toy.trees().replace(b"leaf_value=", b"leaf_value=x", 1))
    with pytest.raises(ModelError, match=f"name-1.txt: sha256 is [0-9a-f]{{64}}; must be {right}"):
        Booster.open(path, right)
    with pytest.raises(ModelError, match="No such file"):
        Booster.open(tmp_path / "none.txt")


@pytest.mark.parametrize("text", [b"", b"hello", b"\0tree\n", b"tree\n\0"])
def test_what_is_no_model_is_refused(text):
    """
    Text that does not begin like a model, or holds a null octet, does not reach the library.
    """
    with pytest.raises(ModelError, match="must b"):
        Booster(text)


def test_what_the_library_says_is_told(capfd):
    """
    The library's own words stand in the error.
    """
    with pytest.raises(ModelError, match="LightGBM says: Model file doesn't specify"):
        Booster(b"tree\nversion=v4\n")
    assert capfd.readouterr().out == ""


def test_several_classes_are_refused():
    """
    A model that gives several numbers for a row is none of ours.
    """
    data = lightgbm.Dataset(numpy.array(ROWS), numpy.arange(len(ROWS)) % 3)
    made = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}, data, 2
    )
    with pytest.raises(ModelError, match="3 classes"):
        Booster(made.model_to_string().encode())


def test_the_package_stays_out_and_no_thread_is_started(tmp_path):
    """
    Neither lightgbm nor numpy is imported, loading and scoring start no thread, nothing is printed.
    """
    path = tmp_path / "model.txt"
    path.write_bytes(toy.trees())
    program = f"""
        import os, sys
        from pathlib import Path
        from urlguard.classify.booster import Booster
        booster = Booster.open(Path({str(path)!r}))
        one = booster.raw([20.0, 1.0, 2.0, 2.0])
        assert booster.raws([[20.0, 1.0, 2.0, 2.0]] * 5000) == [one] * 5000
        assert not {{"lightgbm", "numpy", "scipy"}} & set(sys.modules)
        assert len(os.listdir("/proc/self/task")) == 1
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_closed_booster_may_be_closed_again():
    """
    Closing frees the trees once.
    """
    made = Booster(toy.trees())
    made.close()
    made.close()
