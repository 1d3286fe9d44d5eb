"""`urlguard check`: the object for each kind of input, and lines in a stream."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.logs import log_file
from urlguard import check, local_policy, wellknown
from urlguard.blocklist import snapshot
from urlguard.compile import compile_here
from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.errors import PolicyError
from urlguard.policy.location import log_location, open_log
from urlguard.policy.model import Change

FIELDS = [
    *("input", "kind", "canonical", "name", "registrable", "action", "reason", "score", "rule"),
    *("model", "why", "error"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A policy on disk: some of it compiled, some of it in the log alone."""
    folder = tmp_path_factory.mktemp("check")
    config = Config(state_dir=folder)
    log = open_log(config)
    with contextlib.closing(log):
        rules = [
            Change("subtree evil.example", "block", "phishing"),
            Change("url page.example/login", "review", "scam"),
            Change("pattern *paypa1*", "block", "fraud"),
            Change("subtree gone.example", "block", "fraud"),
        ]
        log.commit("feed:a", rules, actor="test", reason="")
        compile_here(log_location(config), folder / "snapshots")
        log.commit("feed:a", [Change("subtree gone.example", None)], actor="test", reason="")
        later = [Change("subtree good.evil.example", "allow"), Change("domain x.example", "block")]
        log.commit("operator", later, actor="test", reason="")
    (folder / "urlguard.toml").write_text(f"state_dir = {str(folder)!r}\n")
    return config


@pytest.fixture(scope="module")
def engine(config):
    """That policy, opened."""
    return local_policy.open_engine(config)


POPULAR = next(iter(wellknown.popular()))

CASES = [
    # input, kind, canonical, name, registrable, action, reason, rule's kind and value
    ("evil.example", "name", "evil.example", "evil.example", "evil.example", "block",
     "blocklist", "subtree evil.example"),
    ("  WWW.Evil.EXAMPLE. ", "name", "www.evil.example", "www.evil.example", "evil.example",
     "block", "blocklist", "subtree evil.example"),
    ("a.good.evil.example", "name", "a.good.evil.example", "a.good.evil.example", "evil.example",
     "allow", "allowlist", "subtree good.evil.example"),
    ("gone.example", "name", "gone.example", "gone.example", "gone.example", "none", "none", None),
    ("x.example", "name", "x.example", "x.example", "x.example", "block", "blocklist",
     "domain x.example"),
    ("my-paypa1.example", "name", "my-paypa1.example", "my-paypa1.example", "my-paypa1.example",
     "block", "pattern", "pattern *paypa1*"),
    (POPULAR, "name", POPULAR, POPULAR, POPULAR, "allow", "popular", None),
    ("localhost", "name", "localhost", "localhost", None, "none", "none", None),
    ("bücher.example", "name", "xn--bcher-kva.example", "xn--bcher-kva.example",
     "xn--bcher-kva.example", "none", "none", None),
    ("http://evil.example", "url", "http://evil.example/", "evil.example", "evil.example", "block",
     "blocklist", "subtree evil.example"),
    ("HTTPS://User@Page.Example:443/login#top", "url", "https://page.example/login",
     "page.example", "page.example", "review", "blocklist", "url page.example/login"),
    ("page.example/", "url", "http://page.example/", "page.example", "page.example", "none",
     "none", None),
    ("page.example:8080", "url", "http://page.example/", "page.example", "page.example", "none",
     "none", None),
    ("http://192.0.2.1/x", "url", "http://192.0.2.1/x", None, None, "none", "none", None),
    ("http://[2001:db8::1]/", "url", "http://[2001:db8::1]/", None, None, "none", "none", None),
    ("http://im possible.example/", "url", "http://im%20possible.example/", None, None, "none",
     "none", None),
    ("192.0.2.1", "ip", "192.0.2.1", None, None, "none", "none", None),
    (" 2001:DB8::0001 ", "ip", "2001:db8::1", None, None, "none", "none", None),
    ("[2001:db8::1]", "ip", "2001:db8::1", None, None, "none", "none", None),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_every_field_of_the_object(engine, case):
    """
    All twelve keys, in order, whatever the input; no model runs, so score and model are null.
    """
    text, kind, canonical, name, registrable, action, reason, rule = case
    found = check.inspect(engine, text)
    assert list(found) == FIELDS
    assert found["input"] == text
    assert (found["kind"], found["canonical"], found["name"]) == (kind, canonical, name)
    assert found["registrable"] == registrable
    assert (found["action"], found["reason"]) == (action, reason)
    assert (found["score"], found["model"], found["why"], found["error"]) == (None, None, [], None)
    shown = found["rule"] and f"{found['rule']['kind']} {found['rule']['value']}"
    assert shown == rule


def test_the_rule_in_the_object(engine):
    """
    The rule that decided: value, kind, category, who says so, and since which batch.
    """
    assert check.inspect(engine, "evil.example")["rule"] == {
        "value": "evil.example",
        "kind": "subtree",
        "category": "phishing",
        "sources": ["feed:a"],
        "serial": 1,
    }
    assert check.inspect(engine, "good.evil.example")["rule"]["sources"] == ["operator"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (".", "empty"),
        ("two words", "has ' '"),
        ("a..example", "label 2 is empty"),
        ("x" * 64 + ".example", "label length 64, limit is 63"),
        ("mailto:someone@x.example", "has ':'"),
        ("http://", "host"),
        ("http:///path", ""),
        ("/only/a/path", "host"),
        ("http://x.example:99999/", "port"),
        ("http://[::g]/", ""),
        ("1.2.3", "is a number"),
        ("�", ""),
        ("a\x00b", "has"),
        ("\udcff.example", ""),
        ("x" * 9000 + ".example/", "limit is 8192"),
    ],
)
def test_what_is_invalid(engine, text, said):
    """
    No host: kind invalid, action none, everything else null, and what is wrong in `error`.
    """
    found = check.inspect(engine, text)
    if text == "http:///path":  # browsers read the path as the host, and so do we
        assert (found["kind"], found["name"]) == ("url", "path")
        return
    nothing = ("canonical", "name", "registrable", "score", "rule", "model")
    assert list(found) == FIELDS
    assert (found["kind"], found["action"], found["reason"]) == ("invalid", "none", "none")
    assert [found[key] for key in nothing] == [None] * len(nothing)
    assert said in found["error"]
    assert found["input"] == text


# -- lines -----------------------------------------------------------------------------------------


def answers(engine, *chunks):
    """The objects for input that arrives in these pieces."""
    output = b"".join(check.lines(engine, iter(chunks)))
    assert output.isascii()
    assert output == b"" or output.endswith(b"\n")
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    ("data", "inputs"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a.example\n", ["a.example"]),
        (b"a.example", ["a.example"]),
        (b"a.example\n\nb.example\n", ["a.example", "", "b.example"]),
        (b"\n\n\n", ["", "", ""]),
        (b"a.example\r\nb.example\r\n", ["a.example", "b.example"]),
        (b"a.example\rb.example\n", ["a.example\rb.example"]),
        (b"  a.example\t\n", ["  a.example\t"]),
        ("bücher.example\n".encode(), ["bücher.example"]),
        (b"\xff\xfe.example\n", ["��.example"]),
        (b"\xe2\x82\nx.example\n", ["�", "x.example"]),
        ("\u2028\u0085.example\n".encode(), ["\u2028\u0085.example"]),
        (b"a\x00\x1b[31m.example\n", ["a\x00\x1b[31m.example"]),
    ],
)
def test_one_object_for_each_line(engine, data, inputs):
    """
    In order, blank lines included, whatever the lines hold, however the input is cut into pieces.
    """
    assert [a["input"] for a in answers(engine, data)] == inputs
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert [a["input"] for a in answers(engine, *pieces)] == inputs


@pytest.mark.parametrize("chunk", [1 << 10, 1 << 16, 1 << 22])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_of_a_megabyte_is_one_invalid_line(engine, chunk, end):
    """
    A line without end is answered once, shortened, and the lines around it as ever.
    """
    data = b"a.example\n" + b"x" * (1 << 20) + b"\nb.example\n" + b"y" * (1 << 20) + end
    found = answers(engine, *(data[i : i + chunk] for i in range(0, len(data), chunk)))
    assert [(a["kind"], a["input"][:9]) for a in found] == [
        ("name", "a.example"),
        ("invalid", "x" * 9),
        ("name", "b.example"),
        ("invalid", "y" * 9),
    ]
    assert all(len(a["input"]) <= 200 for a in found)
    assert "65536" in found[1]["error"]


def test_a_line_without_end_is_answered_before_its_end(engine):
    """
    What is too long is not collected: memory stays bounded, and the answer does not wait.
    """
    sent = []

    def endless():
        while True:
            sent.append(None)
            yield b"x" * 10_000

    output = check.lines(engine, endless())
    assert json.loads(next(output))["kind"] == "invalid"
    assert len(sent) == 7


@pytest.mark.parametrize(
    ("size", "kind"), [(check.MAX_INPUT, "octets"), (check.MAX_INPUT + 1, "line")]
)
def test_the_limit_of_a_line(engine, size, kind):
    """
    As many octets as are allowed are looked at, one more are not.
    """
    (found,) = answers(engine, b"x" * size + b"\n")
    assert found["error"].startswith("line: ") is (kind == "line")


# -- as a process ----------------------------------------------------------------------------------


def start(config, *arguments):
    """``urlguard check`` with its pipes."""
    command = [sys.executable, "-c", "from urlguard.cli import main; main()", "check", "--config"]
    return subprocess.Popen(
        [*command, str(config.state_dir / "urlguard.toml"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},  # whatever the locale
    )


def test_a_line_is_answered_before_the_next_is_sent(config):
    """
    Streaming: whoever writes one line and waits gets its answer.
    """
    with start(config, "-") as run:
        for name, action in [("evil.example", "block"), ("", "none"), ("x.example", "block")] * 2:
            run.stdin.write(name.encode() + b"\n")
            run.stdin.flush()
            assert json.loads(run.stdout.readline())["action"] == action
        output, errors = run.communicate(b"last.example", timeout=20)
    assert json.loads(output)["input"] == "last.example"
    assert (run.returncode, errors) == (0, b"")


def listing(folder):
    """Every file below a folder with its size and time of change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_check_creates_no_files(config, tmp_path):
    """
    Neither beside the policy nor, where there is none, anywhere; nothing is changed either.
    """
    before = listing(config.state_dir)
    with start(config, "evil.example") as run:
        run.communicate(timeout=20)
    assert listing(config.state_dir) == before
    (tmp_path / "urlguard.toml").write_text("")
    with start(Config(state_dir=tmp_path), "evil.example") as run:
        output, errors = run.communicate(timeout=20)
    assert run.returncode == 0
    assert b"no policy in" in errors
    assert b"no rule" in output
    assert [path.name for path in tmp_path.iterdir()] == ["urlguard.toml"]


def test_check_works_where_nothing_can_be_written(config):
    """
    A policy in a folder that is read-only, without rights, and no folder for temporary files.
    """
    script = (
        "import os, sys, pathlib\n"
        "from urlguard import config, local_policy\n"
        "place = config.Config(state_dir=pathlib.Path(sys.argv[1]))\n"
        "local_policy.open_engine(place)\n"  # imports all it needs, which nobody else may read
        "if os.getuid() == 0: os.setuid(65534)\n"
        "print(local_policy.open_engine(place).decide('x.example').action)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(config.state_dir, Path(folder) / "state")
        Path(folder).chmod(0o755)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = listing(copy)
        done = subprocess.run(
            [sys.executable, "-c", script, str(copy)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TMPDIR": "/nonexistent"},
        )
        assert done.stdout == "block\n", done.stderr
        assert listing(copy) == before
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["evil.example"], 0),
        (["evil.example", "--json"], 0),
        (["nothing.example"], 0),
        (["192.0.2.1"], 0),
        (["two words"], 1),
        (["evil.example", "", "x.example"], 1),
        ([], 2),
        (["--nonsense", "x.example"], 2),
    ],
)
def test_exit_codes(config, arguments, code):
    """
    0 for any verdict, 1 if an item is no name, URL or address, 2 for a wrong call.
    """
    with start(config, *arguments) as run:
        output, errors = run.communicate(timeout=20)
    assert run.returncode == code
    assert b"Traceback" not in errors
    assert bool(output) is (code < 2)


def test_lines_that_are_invalid_do_not_fail_the_stream(config):
    """
    In a stream each line has its own answer, and the stream as a whole has succeeded.
    """
    with start(config, "-") as run:
        output, _ = run.communicate(b"two words\n\xff\n", timeout=20)
    assert run.returncode == 0
    assert [json.loads(line)["kind"] for line in output.splitlines()] == ["invalid", "invalid"]


def test_a_reader_that_leaves_is_no_error_of_ours(config):
    """
    `urlguard check - | head -1`: no traceback.
    """
    with start(config, "-") as run:
        run.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            run.stdin.write(b"evil.example\n" * 100_000)
            run.stdin.close()
        errors = run.stderr.read()
        run.wait(20)
    assert b"Traceback" not in errors
    assert run.returncode == 1


def test_arguments_that_are_not_utf_8(config):
    """
    Octets of the command line that are no text are shown as invalid input, not as a traceback.
    """
    for options in ([], ["--json"]):
        with start(config, os.fsdecode(b"\xff.example"), *options) as run:
            output, errors = run.communicate(timeout=20)
        assert (run.returncode, errors) == (1, b"")
        assert b"invalid" in output


# -- what is on disk -------------------------------------------------------------------------------


def test_the_newest_good_snapshot_is_used(config, tmp_path, capsys):
    """
    A damaged snapshot is passed over, with a line in the log; the rest comes from the policy log.
    """
    folder = tmp_path / "snapshots"
    compile_here(log_location(config), folder)
    broken = folder / "0000000099-1"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    found = local_policy.open_engine(Config(state_dir=tmp_path))
    assert found.decide("evil.example").action == "block"
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["using"]) == ("snapshot.refused", "the one before")


def test_without_a_snapshot_the_log_is_enough(config, tmp_path):
    """
    Everything can stand in the overlay.
    """
    (tmp_path / "policy.db").write_bytes(log_file(config).read_bytes())
    found = local_policy.open_engine(Config(state_dir=tmp_path))
    assert found.serial == 3
    assert found.decide("evil.example").action == "block"
    assert found.decide("gone.example") is None


def test_a_damaged_log_is_an_error(config, tmp_path):
    """
    A log that cannot be read is said to be so.
    """
    data = bytearray(log_file(config).read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    (tmp_path / "policy.db").write_bytes(data)
    with pytest.raises(PolicyError, match=r"policy\.db"):
        local_policy.open_engine(Config(state_dir=tmp_path))


def test_a_long_list_is_checked_quickly(engine):
    """
    Tens of thousands of lines a second, so that a list can be piped through.
    """
    data = b"".join(b"www.host%d.example\n" % i for i in range(20_000))
    started = time.process_time()
    assert sum(out.count(b"\n") for out in check.lines(engine, iter([data]))) == 20_000
    assert time.process_time() - started < 4  # 0.3 s on a quiet machine


def test_an_engine_without_policy():
    """
    Before the first start every name is unknown.
    """
    found = check.inspect(Engine(snapshot.nothing()), "evil.example")
    assert (found["action"], found["rule"]) == ("none", None)
