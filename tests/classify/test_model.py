"""A model's files: nothing is used that is not what the card says."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.classify import toy
from urlguard import urls
from urlguard.classify import model
from urlguard.classify.model import Model
from urlguard.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    """A folder with a model of each kind."""
    toy.write(tmp_path)
    toy.write(tmp_path, "url-2026-11-24")
    return tmp_path


def opened(folder, kind="name", name=None):
    """A model of the folder, over the toy features."""
    return Model.open(folder, kind, name, reader=toy.read)


def test_scores_and_actions(folder):
    """
    Scores are calibrated probabilities of six digits, and thresholds make actions of them.
    """
    found = opened(folder)
    assert found.judge(toy.BAD) == ("block", 0.99)
    action, score = found.judge(toy.GREY)
    assert action == "review"
    assert 0.2 < score < 0.9
    assert score == round(score, 6) == found.score(toy.GREY)
    assert found.judge(toy.GOOD) == ("none", 0.01)


def test_shared_hosting_has_thresholds_of_its_own(folder):
    """
    The same look below a zone of shared hosting is judged by other numbers.
    """
    found = opened(folder)
    assert found.judge("pay-secure-1.dev")[0] == "block"
    assert found.judge("pay-secure-1.pages.dev")[0] == "none"


def test_a_batch_gives_the_same_scores(folder):
    """
    Bit by bit, whatever stands beside an item.
    """
    found = opened(folder)
    names = toy.names(1000, seed=3)
    assert found.scores(names) == [found.score(name) for name in names]
    assert found.scores(iter(names[:3])) == found.scores(names)[:3]


def test_a_score_can_be_taken_apart(folder):
    """
    Row, margin and what each feature adds to it: the numbers that the score is made of.
    """
    found = opened(folder)
    for item in (toy.BAD, toy.GREY, toy.GOOD):
        row = found.row(item)
        assert len(row) == len(found.card.features)
        margin = found.margin(row)
        assert found.probability(margin) == found.score(item)
        assert sum(found.contributions(row)) == pytest.approx(margin, abs=1e-9)


def test_urls(folder):
    """
    A model of URLs scores what `urls.parse` made; one whose host is an address is on no hosting.
    """
    found = opened(folder, "url")
    assert found.judge(urls.parse("http://x.example/pay-1-2"))[0] == "block"
    assert found.judge(urls.parse("http://192.0.2.1/pay-1-2"))[0] == "block"
    assert found.judge(urls.parse("http://garden.org/"))[0] == "none"


@pytest.mark.parametrize(
    ("raw", "score"),
    [
        *((-1e9, 0.01), (-2.0, 0.01), (-1.0, 0.255), (0.0, 0.5), (1.0, 0.745), (2.0, 0.99)),
        *((1e9, 0.99), (0.000001, 0.5), (float("inf"), 0.99), (-float("inf"), 0.01)),
    ],
)
def test_calibration_is_straight_between_knots_and_flat_outside(folder, raw, score):
    """
    Three knots, and what lies beside and between them.
    """
    assert opened(folder).probability(raw) == score


def test_the_newest_is_used_and_a_named_one_on_demand(folder):
    """
    Names are dates, so the last in their order is the newest.
    """
    toy.write(folder, "name-2026-12-01")
    toy.write(folder, "name-2026-12-01.b")
    (folder / "name-.json").write_text("{}")
    (folder / "nameless.json").write_text("{}")
    assert opened(folder).name == "name-2026-12-01.b"
    assert opened(folder, name="name-2026-11-24").name == "name-2026-11-24"
    assert model.names(folder, "url") == ["url-2026-11-24"]
    assert model.names(folder / "none", "url") == []


def test_the_ident_follows_the_card(folder):
    """
    A verdict names the model and its card's digest, so that a changed threshold shows.
    """
    before = opened(folder).ident
    name, _, digest = before.partition("@")
    assert name == "name-2026-11-24"
    assert len(digest) == 12
    path = folder / "name-2026-11-24.json"
    path.write_text(path.read_text() + "\n")
    assert opened(folder).ident != before


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "format 2; this version reads 1"),
        ({"name": "name-2026-01-01"}, "must fit the file"),
        ({"kind": "mail"}, "must fit the file"),
        ({"features_digest": "0" * 64}, f"features {'0' * 64}; this version computes"),
        ({"features": ["length"]}, "this version computes"),
        ({"booster_sha256": "0" * 64}, "sha256 is"),
        ({"tables_sha256": "0" * 64}, "sha256 is"),
        ({"calibration": []}, "is empty"),
        ({"calibration": [[0, 0.5], [0, 0.6]]}, "must rise"),
        ({"calibration": [[0, 0.5], [1, 0.4]]}, "must rise"),
        ({"calibration": [[0, 0.5], [1, 1.4]]}, "must rise"),
        ({"calibration": [[0, 0.5], [float("nan"), 0.6]]}, "must rise"),
        ({"calibration": 7}, "calibration is 7; must be a list"),
        ({"calibration": "0912"}, "calibration is '0912'; must be a list"),
        ({"calibration": ["01", "19"]}, "'01'; must be pairs"),
        ({"calibration": [[0, 0.5, 1]]}, "a list; must be pairs"),
        ({"calibration": [["0", 0.5]]}, "calibration is '0'; must be a number"),
        ({"calibration": [[0, True]]}, "calibration is true; must be a number"),
        ({"calibration": [[n, 0.5] for n in range(4097)]}, "has 4097 knots; may have 4096"),
        ({"calibration": [[10**400, 0.5]]}, "over 300 digits"),
        ({"format": True}, "format is true; must be a whole number"),
        ({"name": ["name-2026-11-24"]}, "name is a list; must be text"),
        ({"features": "length"}, "features is 'length'; must be a list"),
        ({"features": []}, "0 of them; must be 1 to 4096"),
        ({"features": ["length"] * 4097}, "4097 of them; must be 1 to 4096"),
        ({"features": ["length", 7]}, "features: 7; must be names"),
        ({"features_digest": 7}, "features_digest is 7; must be text"),
        ({"tables_sha256": "0" * 63}, "; must be 64 hexadecimal digits"),
        ({"booster_sha256": "A" * 64}, "; must be 64 hexadecimal digits"),
        ({"prior": "0.05"}, "prior is '0.05'; must be a number"),
        ({"prior": True}, "prior is true; must be a number"),
        ({"prior": None}, "prior is null; must be a number"),
        ({"prior": 0}, "prior 0.0; must be above 0 and below 1"),
        ({"prior": 1.0}, "prior 1.0; must be above 0 and below 1"),
        ({"prior": float("nan")}, "prior nan; must be above 0 and below 1"),
        ({"thresholds": 7}, "thresholds is 7; must be an object"),
        ({"thresholds": {"own": [0.9, 0.2]}}, "own is a list; must be an object"),
        ({"thresholds": {"own": {"block_at": "1", "review_at": 0.2}}}, "block_at is '1'; must be"),
        ({"calibration": [[-1.7e308, 0.1], [1.7e308, 0.9]]}, "at most 1e+06"),
        ({"about": "x" * (4 << 20)}, "octets; may have"),
        ({"thresholds": {}}, "no 'own'"),
        ({"thresholds": {"own": {"block_at": 0.1, "review_at": 0.2}}}, "no 'hosting'"),
        (
            {
                "thresholds": {
                    "own": {"block_at": 0.1, "review_at": 0.2},
                    "hosting": {"block_at": 0.9, "review_at": 0.2},
                }
            },
            "review_at not above",
        ),
        (
            {
                "thresholds": {
                    "own": {"block_at": float("nan"), "review_at": 0.2},
                    "hosting": {"block_at": 0.9, "review_at": 0.2},
                }
            },
            "review_at not above",
        ),
    ],
)
def test_what_is_not_as_the_card_says_is_refused(tmp_path, changes, problem):
    """
    Each with what was found and what must be.
    """
    toy.write(tmp_path, **changes)
    with pytest.raises(ModelError) as caught:
        opened(tmp_path)
    assert problem in str(caught.value)


@pytest.mark.parametrize("key", ["name", "kind", "features_digest", "booster_sha256", "features"])
def test_text_of_a_card_cannot_drive_the_terminal(tmp_path, key):
    """
    What is told of a card that is refused is short, and has no control characters.
    """
    hostile = "\x1b[2J\x9b\u202e\n" * 1000
    toy.write(tmp_path, **{key: [hostile] if key == "features" else hostile})
    with pytest.raises(ModelError) as caught:
        opened(tmp_path)
    said = str(caught.value).removeprefix(str(tmp_path))
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 300


def test_the_prior(tmp_path):
    """
    The card's own, which measuring needs and judging does not.
    """
    toy.write(tmp_path, prior=0.05)
    assert opened(tmp_path).card.prior == 0.05
    toy.write(tmp_path)
    assert opened(tmp_path).card.prior is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"format": 1}',
        '{"format": %s}' % ("[" * 500 + "]" * 500),
    ],
)
def test_a_broken_card_is_refused(folder, text):
    """
    Whatever stands in the file.
    """
    (folder / "name-2026-11-24.json").write_text(text)
    with pytest.raises(ModelError, match=r"name-2026-11-24\.json"):
        opened(folder)


@pytest.mark.parametrize("suffix", ["json", "txt", "tables"])
def test_a_missing_file_is_named(folder, suffix):
    """
    A model is whole or none.
    """
    (folder / f"name-2026-11-24.{suffix}").unlink()
    with pytest.raises(ModelError, match=rf"name-2026-11-24\.{suffix}|no card"):
        opened(folder, name="name-2026-11-24")


@pytest.mark.parametrize("name", ["url-2026-11-24", "../name-1", "name-../../x", "name-", ""])
def test_only_names_of_models_are_looked_for(folder, name):
    """
    A name from the configuration leads nowhere else.
    """
    with pytest.raises(ModelError, match="must be named like"):
        opened(folder, name=name)


def test_a_card_of_other_trees_is_refused(folder):
    """
    The trees must have as many features as the card.
    """
    card = model.Card.read(folder / "name-2026-11-24.json")
    booster = model.Booster.open(folder / "name-2026-11-24.txt")
    reading = toy.read("name", (folder / "name-2026-11-24.tables").read_bytes())
    with pytest.raises(ModelError, match="trees for 4 features; the card has 3"):
        Model(card._replace(features=card.features[1:]), booster, reading)


def test_find_takes_the_newest_that_is_good(folder):
    """
    One that is refused is told; the next older one is used, and never the shadow.
    """
    toy.write(folder, "name-2026-12-01", features_digest="0" * 64)
    toy.write(folder, "name-2026-12-24")
    found, refused = model.find(folder, "name", besides="name-2026-12-24", reader=toy.read)
    assert found is not None
    assert found.name == "name-2026-11-24"
    assert ["name-2026-12-01" in str(problem) for problem in refused] == [True]
    again, _ = model.find(folder, "name", besides="name-2026-12-24", now=found, reader=toy.read)
    assert again is found


def test_find_keeps_the_one_in_use_if_there_is_no_good_one(folder):
    """
    A folder that was emptied, or spoilt, takes no model away.
    """
    found, _ = model.find(folder, "name", reader=toy.read)
    path = folder / "name-2026-11-24.json"
    path.write_text("{}")
    again, refused = model.find(folder, "name", now=found, reader=toy.read)
    assert again is found
    assert len(refused) == 1
    path.unlink()
    assert model.find(folder, "name", now=found, reader=toy.read) == (found, [])
    assert model.find(folder, "name", reader=toy.read) == (None, [])


def test_find_opens_a_changed_card_of_the_same_name(folder):
    """
    Other thresholds under the same name are another model.
    """
    found, _ = model.find(folder, "name", reader=toy.read)
    path = folder / "name-2026-11-24.json"
    card = json.loads(path.read_text())
    card["thresholds"]["own"]["block_at"] = 0.999
    path.write_text(json.dumps(card))
    again, _ = model.find(folder, "name", now=found, reader=toy.read)
    assert again is not found
    assert again.judge(toy.BAD)[0] == "review"


def test_the_features_of_this_version_are_read_through_their_modules(folder, monkeypatch):
    """
    `model.reading` asks features and tables for what a model needs.
    """
    stand_ins = {}
    toy.install(stand_ins)
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = Model.open(folder, "name")
    assert found.judge(toy.BAD)[0] == "block"
    assert found.own("brand-pay.com")
    assert not found.own(toy.BAD)
    assert Model.open(folder, "url").judge(urls.parse("http://x.net/pay-1"))[0] == "block"


def test_a_features_side_that_breaks_is_a_model_refused(folder):
    """
    Whatever it raises: a worker goes on without the model.
    """

    def broken(kind, tables):
        raise KeyError("weights")

    found, refused = model.find(folder, "name", reader=broken)
    assert found is None
    assert ["KeyError: 'weights'" in str(problem) for problem in refused] == [True]


def test_the_folder(tmp_path):
    """
    What is configured; else what lies beside the source, or within an installed package.
    """
    assert model.folder(tmp_path) == tmp_path
    assert model.folder() == Path(model.__file__).parents[2] / "models"
    assert model.folder().is_dir()


@pytest.mark.parametrize("suffix", [".json", ".tables", ".txt"])
def test_only_files_are_read(tmp_path, suffix):
    """
    A pipe would hold a worker up, and an endless device fill it.
    """
    toy.write(tmp_path)
    path = tmp_path / f"name-2026-11-24{suffix}"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="is no regular file"):
        opened(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="is no regular file"):
        opened(tmp_path)


def test_a_model_in_use_does_not_feel_what_happens_to_its_files(tmp_path):
    """
    Files are copied over and cut short by people; a mapped one would end the process.
    """
    toy.write(tmp_path)
    found = opened(tmp_path)
    before = found.score(toy.BAD)
    for suffix in (".tables", ".txt"):
        (tmp_path / f"name-2026-11-24{suffix}").write_bytes(b"")
    assert found.score(toy.BAD) == before
