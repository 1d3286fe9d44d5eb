"""
The documentation is true: what it names exists, what it shows happens.

Blocks marked ``console`` on the pages in `PLAYED` are typed into a shell beside a real server, and
what comes out must be what the page shows.  In all other blocks only the commands are looked at.
"""

import ast
import dataclasses
import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tokenize
import tomllib
import typing
from pathlib import Path

import click
import pytest

from tests.logs import open_file
from urlguard import check, config, messages, rules
from urlguard.blocklist import snapshot
from urlguard.cases import ndjson
from urlguard.cli import main
from urlguard.engine import Engine
from urlguard.plugins import BUILTIN
from urlguard.policy.model import Change
from urlguard.verdict import decode

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "urlguard" / "data" / "README.md"])
SOURCES = sorted(p for d in ("urlguard", "tests", "benchmarks") for p in (ROOT / d).rglob("*.py"))
PLAYED = ["README.md", "docs/rules.md", "docs/check.md", "docs/operations.md"]

# Pages that were promised to readers and belong to others' work; they must be whole once there.
CONFIGURATION = DOCS / "configuration.md"

HEADINGS = ["Name", "Description", "Options", "When it fails", "Examples"]

BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)


def shown(path):
    return str(path.relative_to(ROOT))


def text(path):
    return path.read_text("utf-8")


def blocks(path, *languages):
    """The fenced blocks of a page in one of the languages."""
    return [body for language, body in BLOCK.findall(text(path)) if language in languages]


def prose(path):
    """A page without its fenced blocks."""
    return BLOCK.sub("", text(path))


def table(page, *header):
    """The rows of the tables of a page with this header, as lists of cells."""
    rows, inside = [], False
    for line in text(page).splitlines():
        cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells == list(header):
            inside = True
        elif not cells:
            inside = False
        elif inside and not set("".join(cells)) <= {"-", ":"}:
            rows.append(cells)
    assert rows, f"{page.name}: no table with the columns {header}"
    return rows


def code(cell):
    """The code spans in a piece of text."""
    return re.findall(r"`([^`]+)`", cell)


# -- what is named exists --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page):
    """
    A relative link leads to a file that exists, and to a heading of it if it names one.
    """
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{shown(page)}: link to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)", text(file), re.M)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{shown(page)}: link to {target}"


FOLDERS = "urlguard|tests|docs|benchmarks"
PATH = re.compile(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./*-]*\w|[A-Z]+\.md|Makefile|pyproject\.toml)")


def missing_paths(words):
    """The paths of the repository in a text that do not exist; a star stands for anything."""
    # The made and the imagined: benchmarks keep records there, a new plugin's page has its name.
    found = [p for p in PATH.findall(words) if not re.search(r"benchmarks/record|/NAME|[<…]", p)]
    return [p for p in found if not any(ROOT.glob(p))]


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_paths_in_pages_exist(page):
    """
    Every path of the repository that a page names exists.
    """
    assert not missing_paths(text(page))


def remarks(path):
    """The comments and docstrings of a module."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.string
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_paths_in_comments_exist(path):
    """
    Every path of the repository that a comment or docstring names exists.
    """
    missing = [p for remark in remarks(path) for p in missing_paths(remark)]
    # DESIGN.md is the plan that came before the code, and lies outside.
    assert not [p for p in missing if p != "DESIGN.md"]


def test_a_missing_path_is_noticed():
    """
    The search for paths finds those that are not there.
    """
    assert missing_paths("see `docs/nothing.md` and urlguard/rules.py") == ["docs/nothing.md"]


PACKAGE = [p for p in SOURCES if p.is_relative_to(ROOT / "urlguard")]


@pytest.mark.parametrize("path", PACKAGE, ids=shown)
def test_names_in_comments_exist(path):
    """
    A dotted name in backticks that begins with a module of ours leads to something.
    """
    tree = ast.parse(text(path))
    # A function's argument may be called like a module.
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for remark in remarks(path):
        for name in re.findall(r"(?<!`)`([a-z_]+(?:\.\w+)+)`(?!`)", remark):
            first, *rest = name.split(".")
            homes = {"urlguard", ".".join(path.relative_to(ROOT).parent.parts)}
            modules = [f"{home}.{first}" for home in homes if importable(f"{home}.{first}")]
            if modules and first not in arguments:
                assert any(leads(module, rest) for module in modules), name


def importable(module):
    path = ROOT / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def leads(module, rest):
    """True if the attributes or modules in `rest` exist, one in the other."""
    here = importlib.import_module(module)
    for part in rest:
        if hasattr(here, "__path__") and importable(f"{here.__name__}.{part}"):
            here = importlib.import_module(f"{here.__name__}.{part}")
        elif hasattr(here, part):
            here = getattr(here, part)
        else:
            return isinstance(here, type) and part in typing.get_type_hints(here)
    return True


TARGETS = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.M))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_make_targets_exist(page):
    """
    Every ``make`` target that a page names stands in the Makefile.
    """
    spans = " ; ".join([*code(prose(page)), *blocks(page, "sh", "console", "")])
    assert set(re.findall(r"\bmake ([a-z-]+)\b", spans)) <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_modules_that_are_run_exist(page):
    """
    Every ``python -m`` module of ours that a page names exists.
    """
    for module in re.findall(r"python3? -m ((?:urlguard|benchmarks)[\w.]*)", text(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_no_machine_shows_through(page):
    """
    No page has a path of somebody's machine or a note to oneself.
    """
    assert not re.findall(r"/work\b|/tmp\b|/home/|/root\b|\b(?:TODO|TBD|FIXME|XXX)\b", text(page))


# -- commands --------------------------------------------------------------------------------------


def commands(page):
    """The calls of ``urlguard`` on a page: in shell blocks, and in code spans."""
    for language, body in BLOCK.findall(text(page)):
        if language not in ("sh", "console"):
            continue
        for line in body.replace("\\\n", " ").splitlines():
            if language == "sh" or line.startswith("$ "):
                yield from calls(line.removeprefix("$ "))
    for span in code(prose(page).replace("\n", " ")):
        if span.startswith("urlguard "):
            yield from calls(span)


def calls(line):
    """The arguments of each ``urlguard`` in a shell line."""
    line = re.sub(r"\$\((.*?)\)", r"; \1 ;", line.replace('"$(', "$(").replace(')"', ")"))
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    words, call, before = list(lexer), None, ""
    for word in [*words, ";"]:
        if re.fullmatch(r"[|;&<>]+", word):
            if call is not None:
                yield call
            call = None
        elif call is not None:
            call.append(word)
        elif word.rpartition("/")[2] == "urlguard" and before != "-u":  # a user of that name
            call = []
        before = word


def problem(arguments):
    """What is wrong with a call of ``urlguard``, or None."""
    group, path = main, []
    arguments = list(arguments)
    if arguments[:1] in (["--version"], ["--help"], []):
        return None
    while isinstance(group, click.Group):
        if not arguments:
            return None  # "urlguard feed" by itself names the group
        name = arguments.pop(0)
        found = group.commands.get(name)
        if found is None:
            return f"no command {' '.join([*path, name])!r}"
        group, path = found, [*path, name]
    options = {o: p for p in group.params if isinstance(p, click.Option) for o in p.opts}
    while arguments:
        word = arguments.pop(0)
        if not word.startswith("-") or word == "-":
            continue
        name, _, value = word.partition("=")
        if name not in options:
            return f"{' '.join(path)} has no option {name}"
        if not options[name].is_flag and not value and arguments:
            arguments.pop(0)
    return None


ALL_CALLS = sorted({(shown(p), *call) for p in PAGES for call in commands(p)})


@pytest.mark.parametrize("call", ALL_CALLS, ids=" ".join)
def test_commands_exist(call):
    """
    Every ``urlguard`` command on a page exists, with the options shown.
    """
    assert problem(call[1:]) is None


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("urlguard blok evil.example", "no command"),
        ("cd x && /opt/urlguard/bin/urlguard check --jason evil.example", "no option"),
        ('eval "$(urlguard completions bash)"', "no command"),
        ("printf x | urlguard feed reload", "no command"),
        ("urlguard check --json -", None),
    ],
)
def test_wrong_commands_are_noticed(line, wrong):
    """
    The reading of commands finds what does not exist, also behind pipes and paths.
    """
    (found,) = (problem(call) for call in calls(line))
    assert found is None if wrong is None else wrong in found


# -- examples --------------------------------------------------------------------------------------

TOML = [(p, body) for p in PAGES for body in blocks(p, "toml")]


@pytest.mark.parametrize(("page", "body"), TOML, ids=[shown(p) for p, _ in TOML])
def test_configurations_load(page, body):
    """
    Each TOML example is a configuration without a mistake.
    """
    config.parse(tomllib.loads(body), Path("/etc/urlguard/urlguard.toml"))


def test_the_example_file_loads():
    """
    The annotated example is a configuration without a mistake.
    """
    example = ROOT / "urlguard.example.toml"
    assert config.load(example).path == example


PYTHON = [(p, body) for p in PAGES for body in blocks(p, "python")]


@pytest.mark.parametrize(("page", "body"), PYTHON, ids=[shown(p) for p, _ in PYTHON])
def test_python_examples_run(page, body, monkeypatch):
    """
    Each Python example runs.
    """
    monkeypatch.syspath_prepend(ROOT / "examples" / "urlguard-plugin-fixed")
    exec(compile(body, shown(page), "exec"), {"__name__": "example"})


def sections(cls=config.Config):
    """Every section of the configuration with the names of its keys."""
    for f in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[f.name]
        inner = next(
            (t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)), None
        )
        if inner is not None:
            deeper = dict(sections(inner))
            yield f.name, [g.name for g in dataclasses.fields(inner) if g.name not in deeper]
            yield from deeper.items()


@pytest.mark.parametrize(
    ("section", "keys"), list(sections()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_configuration_keys_are_documented(section, keys):
    """
    The reference names every section and every key in it.
    """
    page = text(CONFIGURATION)
    assert re.search(rf"\[{section}\]|\.{section}\]", page), f"[{section}]"
    assert not [k for k in keys if not re.search(rf"`(?:\S* )?{k}`|^#? ?{k} *=", page, re.M)]


# -- plugins ---------------------------------------------------------------------------------------


def test_every_plugin_has_a_page():
    """
    Pages and built-in plugins are the same, beside the page about writing one.
    """
    pages = {p.stem for p in (DOCS / "plugins").glob("*.md")}
    assert pages == {*BUILTIN, "write-your-own"}


def test_the_index_lists_the_plugins_in_their_order(golden):
    """
    As the table of built-in plugins has them; ``--update-golden`` writes the row.
    """
    links = ", ".join(f"[{name}](plugins/{name}.md)" for name in BUILTIN)
    row = f"| plugins | {links}, [write your own](plugins/write-your-own.md) |"
    page = text(DOCS / "index.md")
    golden(DOCS / "index.md", re.sub(r"^\| plugins \|.*$", row, page, flags=re.M))


def test_the_default_chain_is_in_the_tables_order():
    """
    The default of ``plugins`` has the built-in plugins in the order of the table that lists them,
    all of those whose options are a section of the configuration.
    """
    sections = {f.name for f in dataclasses.fields(config.Config)}
    assert config.Config().plugins == tuple(name for name in BUILTIN if name in sections)


@pytest.mark.parametrize("name", BUILTIN)
def test_plugin_pages_are_whole(name):
    """
    A plugin's page has the headings that all have, in order, and every option of its section.
    """
    page = DOCS / "plugins" / f"{name}.md"
    headings = re.findall(r"^## (.*)", text(page), re.M)
    assert [h for h in headings if h in HEADINGS] == HEADINGS
    assert set(headings) <= {*HEADINGS, "Metrics"}
    section = getattr(config.Config(), name, None)
    options, table = (
        (BUILTIN[name].options, f"plugin.{name}") if section is None else (section, name)
    )
    for f in dataclasses.fields(options) if options else ():
        assert f"`[{table}] {f.name}`" in text(page), f.name


def test_every_page_is_in_the_index():
    """
    The index leads to every page.
    """
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", text(DOCS / "index.md")))
    assert {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")} - {"index.md"} <= linked


# -- tables that come true -------------------------------------------------------------------------


RULES = DOCS / "rules.md"
COVERS = table(RULES, "you write", "covers", "does not cover")


@pytest.mark.parametrize(("written", "covered", "free"), COVERS)
def test_what_rules_cover(tmp_path, written, covered, free):
    """
    Each rule covers what the page says, and not what the page says it does not.
    """
    key = rules.parse(*code(written)).key
    engine = policy(tmp_path, [("operator", Change(key, "block"))])
    assert {i: check.inspect(engine, i)["action"] for i in code(covered)} == dict.fromkeys(
        code(covered), "block"
    )
    assert {i: check.inspect(engine, i)["action"] for i in code(free)} == dict.fromkeys(
        code(free), "none"
    )


VERBS = {"blocks": "block", "allows": "allow", "reviews": "review", "excepts": "except"}
WINS = table(RULES, "who says what", "asked", "answer", "because")


@pytest.mark.parametrize(("said", "asked", "answer", "because"), WINS)
def test_which_rule_wins(tmp_path, said, asked, answer, because):
    """
    Each worked example of the precedence comes out as the page says, also once it is compiled.
    """
    claims = []
    for claim in said.split("; "):
        who, verb, rule = re.fullmatch(r"(operator|feed \w) (\w+) `(.+)`", claim).groups()
        source = who.replace("feed ", "feed:")
        exact = rule.removeprefix("domain ")
        key = rules.parse(rule).key if exact == rule else f"domain {exact}"
        claims.append((source, Change(key, VERBS[verb], "fraud")))
    (item,) = code(asked)
    for compiled in (False, True):
        engine = policy(tmp_path / str(compiled), claims, compiled=compiled)
        assert check.inspect(engine, item)["action"] == answer, because


def policy(folder, claims, *, compiled=False):
    """An engine with the claims, in a snapshot or in an overlay."""
    log = open_file(folder / "policy.db")
    try:
        for source, change in claims:
            log.commit(source, [change], actor="test", reason="")
        with log.store.reading():
            rulings = list(log.rulings())
        if compiled:
            made = snapshot.write(folder / "snapshots", log.serial, rulings)
            return Engine(snapshot.open_folder(made))
        engine = Engine(snapshot.nothing())
        engine.overlay.apply(((k, decode(v, k)) for k, v in rulings), log.serial)
        return engine
    finally:
        log.close()


def test_the_object_of_check_has_the_keys_of_the_page(tmp_path):
    """
    The two tables of keys are the object's keys in their order.
    """
    keys = [c for row in table(DOCS / "check.md", "key", "value") for c in code(row[0])]
    engine = policy(tmp_path, [("operator", Change("subtree evil.example", "block"))])
    found = check.inspect(engine, "evil.example")
    assert keys == [*found, *found["rule"]]


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "messages.md"], ids=lambda p: p.name)
def test_examples_of_messages_hold_something(page):
    """
    What is shown as a message that leads somewhere does so.
    """
    texts = re.findall(r'"messages": \[\{"id": 1, "text": "([^"]*)"', page.read_text())
    assert texts
    assert all(messages.find(text) for text in texts)


def test_the_errors_of_candidates_are_those_of_the_page():
    """
    The error in the example answer is the one that such a line has.
    """
    page = (DOCS / "candidates.md").read_text()
    (said,) = re.findall(r'"error": "(url [^"]*)"', page)
    reader = ndjson.Reader(0.0)
    reader.feed(b'{"url": "nodot"}\n')
    assert [words for _, words in ndjson.decoded(reader.encoded()).errors] == [said]


def test_every_event_is_explained():
    """
    The table of events has exactly those that the code writes, with their level; RPZ's have a page.
    """
    written = set()
    for path in (ROOT / "urlguard").rglob("*.py"):
        for level, event in re.findall(
            r"events\.(info|warning|error)\(\s*\"([\w.]+)\"", text(path)
        ):
            if path.name != "events.py" and not event.startswith("rpz."):
                written.add((event, level))
    written.add(("events.lost", "warning"))  # events.py itself has nothing else to tell
    rows = table(DOCS / "operations.md", "event", "level", "meaning", "what to do")
    assert {(code(row[0])[0], row[1]) for row in rows} == written


def test_the_layers_are_those_of_the_test():
    """
    The table of layers in ARCHITECTURE.md is the one that `tests/test_layers.py` enforces.
    """
    rows = table(ROOT / "ARCHITECTURE.md", "layer", "modules", "knows")
    tree = ast.parse(text(ROOT / "tests" / "test_layers.py"))
    (layers,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    )
    said = [{n for n in layer if not n.startswith("__")} for layer in layers]
    assert [set(code(row[1])) for row in rows] == [layer for layer in said if layer]


# -- the played pages ------------------------------------------------------------------------------


def steps(page):
    """The commands of a page's ``console`` blocks, each with the output that it shows."""
    for body in blocks(page, "console"):
        for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


@pytest.fixture
def server(tmp_path):
    """A fresh server in a folder of its own, with nothing configured but its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "urlguard.toml").write_text(f'[server]\nlisten = ["127.0.0.1:{port}"]\n')
    arguments = [sys.executable, "-m", "urlguard", "serve"]
    with (tmp_path / "serve.err").open("w") as errors:
        process = subprocess.Popen(
            arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            first = process.stdout.readline()
            assert f"127.0.0.1:{port}" in first, (tmp_path / "serve.err").read_text()
            yield tmp_path, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=15)


def uniform(output):
    """Output without what differs from run to run."""
    output = re.sub(r"\bid: \d+", "id: N", output)
    output = re.sub(r"COOKIE: [0-9a-f]{48}", "COOKIE: N", output)
    return re.sub(r"[ \t]+", " ", output).strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYED)
def test_played_pages(name, server):
    """
    Typed in order beside a fresh server, each command of a page prints what the page shows.
    """
    folder, port = server
    binaries = folder / "bin"
    binaries.mkdir()
    script = binaries / "urlguard"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m urlguard "$@"\n')
    script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    played = list(steps(ROOT / name))
    assert played
    for command, output in played:
        if command.startswith("dig ") and shutil.which("dig") is None:
            continue
        done = subprocess.run(
            command.replace("-p 5300", f"-p {port}"),
            shell=True,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
        assert uniform(done.stdout) == uniform(output), command
