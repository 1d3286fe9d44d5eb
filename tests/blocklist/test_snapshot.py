"""Snapshots: opened whole and unchanged, or refused."""

import json
import math
import shutil

import pytest

from urlguard.blocklist import snapshot
from urlguard.errors import SnapshotError
from urlguard.verdict import Ruling, encode


def text(action="block", serial=1):
    """An encoded ruling."""
    return encode(Ruling(action, "fraud", ("feed:a",), serial, "", "")) or ""


RULINGS = [
    ("below b.example", text()),
    ("domain evil.example", text("allow")),
    ("pattern *paypa1*", text()),
    ("pattern */login*.php", text()),
    ("subtree evil.example", text()),
    ("url evil.example/a", text("review")),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A snapshot of a few rules."""
    return snapshot.write(tmp_path_factory.mktemp("snapshot"), 7, RULINGS)


FILES = [
    *("names.trie", "names.idx", "names.ends", "names.cells"),
    *("urls.trie", "urls.idx", "urls.ends", "urls.cells"),
    *("pattern-rulings.trie", "pattern-rulings.idx", "pattern-rulings.ends"),
    *("pattern-rulings.cells", "patterns.txt", "patterns.ac"),
]


@pytest.fixture
def copy(good, tmp_path):
    """That snapshot, to be damaged."""
    return shutil.copytree(good, tmp_path / good.name)


def test_the_manifest_names_every_file(good):
    """
    Nothing in a snapshot's folder is without a digest, and there is nothing else.
    """
    manifest = json.loads((good / "manifest.json").read_text())
    assert sorted(manifest["sha256"]) == sorted(FILES)
    assert sorted(p.name for p in good.iterdir()) == sorted([*FILES, "manifest.json"])
    assert manifest["format"] == snapshot.FORMAT
    assert manifest["serial"] == 7
    assert manifest["rules"] == {"names": 2, "urls": 1, "patterns": 2}
    assert manifest["paused"] is False


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "one bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_never_opened(copy, name, damage):
    """
    Whatever happened to whichever file, the snapshot is refused and the file is named.
    """
    DAMAGE[damage](copy / name)
    with pytest.raises(SnapshotError, match=name):
        snapshot.open_folder(copy)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(format=snapshot.FORMAT + 1), "format 2; this build reads 1"),
        (lambda m: m.update(format="1"), "this build reads 1"),
        (lambda m: m.pop("format"), "no usable manifest"),
        (lambda m: m.pop("sha256"), "no usable manifest"),
        (lambda m: m.update(sha256=7), "no usable manifest"),
        (lambda m: m.update(serial="x"), "no usable manifest"),
        (lambda m: m["sha256"].update({"names.trie": "0" * 64}), "names.trie: digest"),
        (lambda m: m["sha256"].pop("names.trie"), "names.trie: no digest"),
        (lambda m: m["sha256"].pop("patterns.ac"), "patterns.ac: no digest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy, edit, said):
    """
    Another format version, a missing key, a wrong or a missing digest.
    """
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError, match=said):
        snapshot.open_folder(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_rubbish_as_a_manifest_is_refused(copy, content):
    """
    A manifest that cannot be read is an error of the snapshot, whatever is in it.
    """
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(SnapshotError, match="no usable manifest"):
        snapshot.open_folder(copy)


def test_files_of_two_snapshots_do_not_mix(copy, tmp_path):
    """
    Files that are each intact, with their own digests, but of tables that do not fit.
    """
    other = snapshot.write(tmp_path / "other", 8, [("subtree x.example", text())])
    manifest = json.loads((copy / "manifest.json").read_text())
    digests = json.loads((other / "manifest.json").read_text())["sha256"]
    shutil.copy(other / "names.idx", copy / "names.idx")
    manifest["sha256"]["names.idx"] = digests["names.idx"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError, match=r"names.idx: 1 entries; the trie has 2"):
        snapshot.open_folder(copy)


def test_an_open_snapshot_survives_its_deletion(copy):
    """
    Files that are in use may be deleted: a worker goes on with what it has mapped.
    """
    opened = snapshot.open_folder(copy)
    shutil.rmtree(copy)
    assert set(opened.names.covering("www.evil.example")) == {"evil.example"}
    assert opened.url("evil.example/a").action == "review"


def test_newest_comes_first(tmp_path):
    """
    By serial, then by number, as numbers and not as text.
    """
    for name in ("0000000002-1", "0000000010-2", "0000000010-10", "12345678901-1"):
        (tmp_path / name).mkdir()
    assert [p.name for p in snapshot.newest(tmp_path)] == [
        "12345678901-1",
        "0000000010-10",
        "0000000010-2",
        "0000000002-1",
    ]
    snapshot.prune(tmp_path)
    assert len(snapshot.newest(tmp_path)) == 2
    assert snapshot.newest(tmp_path / "not there") == []


def test_nothing_is_a_policy_without_files(tmp_path, monkeypatch):
    """
    The empty snapshot needs no folder, so it works where nothing can be written.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not there"))
    empty = snapshot.nothing()
    assert (len(empty), empty.serial) == (0, 0)
    assert not empty.names.keys("evil.example")
    assert empty.names.covering("evil.example") == {}
    assert empty.url("evil.example/") is None
    assert empty.patterns.matching(".evil.example.") == []


def test_a_pause_is_carried_and_is_no_rule(tmp_path):
    """
    A worker that starts during a pause begins paused; the rules are all there.
    """
    path = snapshot.write(tmp_path, 8, [*RULINGS, ("pause filtering", text("allow"))])
    opened = snapshot.open_folder(path)
    assert (opened.paused_until, len(opened)) == (math.inf, 5)


def test_a_pause_is_carried_with_its_end(tmp_path):
    """
    The manifest says until when, as a number of seconds.
    """
    off = encode(Ruling("allow", "until 1795480000", ("operator",), 8, "pause", "filtering"))
    path = snapshot.write(tmp_path, 8, [*RULINGS, ("pause filtering", off)])
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["paused"], manifest["paused_until"]) == (True, 1795480000)
    assert snapshot.open_folder(path).paused_until == 1795480000


@pytest.mark.parametrize(
    ("said", "until"),
    [
        ({}, math.inf),
        ({"paused_until": None}, math.inf),
        ({"paused_until": 7}, 7),
        ({"paused_until": "never"}, 0),
        ({"paused_until": True}, 0),
        ({"paused_until": 1e9}, 0),
        ({"paused_until": 10**400}, 0),
    ],
)
def test_a_pause_of_an_old_manifest_has_no_end(copy, said, until):
    """
    Snapshots of before a pause carried its end are paused for good; a value that nobody writes
    switches nothing off.
    """
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["paused_until"]
    path.write_text(json.dumps({**manifest, "paused": True, **said}))
    assert snapshot.open_folder(copy).paused_until == until


@pytest.mark.parametrize("value", [None, 1, "true", []])
def test_a_manifest_that_does_not_say_paused_is_not(copy, value):
    """
    Snapshots of before there were pauses, and values that nobody writes, mean: not paused.
    """
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["paused"] = value
    if value is None:
        del manifest["paused"]
    path.write_text(json.dumps(manifest))
    assert snapshot.open_folder(copy).paused_until == 0


def test_rules_in_shadow_lie_apart(tmp_path):
    """
    They have tables of their own; a snapshot without any has the files that it always had.
    """
    text = '["shadow","fraud",["feed:a"],3]'
    keys = ("subtree evil.example", "domain evil.example", "pattern *evil*", "url evil.example/a")
    plain = snapshot.write(tmp_path, 3, [("subtree x.example", '["block","x",["operator"],1]')])
    path = snapshot.write(
        tmp_path,
        4,
        [
            ("subtree x.example", '["block","x",["operator"],1]'),
            *((f"shadow {k}", text) for k in keys),
        ],
    )
    opened = snapshot.open_folder(path)
    assert len(opened) == len(snapshot.open_folder(plain)) == 1
    assert opened.shadow.names.get("evil.example").keys() == {"subtree", "domain"}
    assert opened.shadow.pattern("*evil*").action == "shadow"
    assert opened.names.get("evil.example") == {}
    assert not any(file.name.startswith("shadow") for file in plain.iterdir())
    assert snapshot.open_folder(plain).shadow is None
    (path / "shadow-names.trie").write_bytes(b"x")
    with pytest.raises(SnapshotError, match=r"shadow-names.trie: digest"):
        snapshot.open_folder(path)
