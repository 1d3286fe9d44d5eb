"""The house check: what it finds in a small package, and what a reason is worth."""

import pytest

from tests import house
from tests.imports import modules

GOOD = {
    "__init__": "",
    "names": "class Name: ...",
    "base": "",
    "log/__init__": "",
    "log/rows": "from urlguard import names",
    "log/file": "from urlguard.log.rows import names",
    "serve": "from urlguard.log import file\nfrom urlguard import log, names",
}
LAYERS = [["__init__", "base", "names"], ["log"], ["serve"]]


@pytest.fixture
def look(tmp_path):
    """``look({module: text}, rule=…)``: the report on the good package with some changes."""

    def inspect(change=(), **rules):
        for name, text in (GOOD | dict(change)).items():
            path = tmp_path / "urlguard" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        allowed = {"layers": LAYERS, "upward": {}, "long_files": {}, "same_names": {}} | rules
        return house.inspect(modules(tmp_path / "urlguard"), house.Rules(**allowed))

    return inspect


def lines(count):
    return "\n" * count


def test_a_house_in_order(look):
    """
    Its rooms and floors are counted, and nothing is wrong.
    """
    report = look()
    assert report.wrong == []
    assert report.lines == [
        "rooms: 5 on 3 floors, 7 modules",
        "imports upward: 0",
        "import circles: 0",
        "circles that only imports under TYPE_CHECKING close: 0",
        "files over 450 lines: 0",
        "class names in more than one module: 0",
        "functions over 80 lines: 0",
    ]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"base": "from urlguard.log import file"}, "base imports log.file"),
        ({"base": "import urlguard.serve"}, "base imports serve"),
        ({"base": "def f():\n  with x:\n    import urlguard.serve"}, "base imports serve"),
        ({"base": "try: pass\nexcept E:\n  import urlguard.log"}, "base imports log"),
        ({"base": "match x:\n  case 1:\n    import urlguard.log"}, "base imports log"),
        ({"new": ""}, "new has no floor"),
        ({"log/rows": "from urlguard.log import file"}, "log.file ⇄ log.rows"),
        ({"log/rows": "async def f():\n  import urlguard.log.file"}, "log.file ⇄ log.rows"),
        ({"names": lines(451)}, "names has 451 lines: no reason given"),
        ({"log/rows": lines(900)}, "log.rows has 900 lines: no reason given"),
        ({"log/rows": "class Name: ..."}, "Name in log.rows, names: no reason given"),
    ],
)
def test_what_is_out_of_order_is_wrong(look, change, wrong):
    """
    An import upward, a circle inside a package, a long file, a class of another's name.
    """
    report = look(change)
    assert report.wrong == [wrong]
    assert any(line.strip().startswith(wrong) for line in report.lines)


def test_circles_between_rooms(look):
    """
    A circle that no two modules make, only their rooms.
    """
    report = look(
        {"log/rows": "import urlguard.data.one", "data/two": "import urlguard.log.file"}
        | {"data/__init__": "", "data/one": "", "log/file": ""},
        layers=[["__init__", "base", "names"], ["log"], ["data"], ["serve"]],
    )
    assert report.wrong == ["log.rows imports data.one", "data ⇄ log"]


def test_circles_of_types_are_told_apart(look):
    """
    They are listed and not wrong, and what is imported for types does not count as upward.
    """
    report = look({"names": "if TYPE_CHECKING:\n  from urlguard.log.file import File"})
    assert report.wrong == []
    at = report.lines.index("circles that only imports under TYPE_CHECKING close: 1")
    assert report.lines[at + 1] == "  log.file ⇄ log.rows ⇄ names"


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"base": "import urlguard.log"}, {"upward": {("base", "log"): "why"}}),
        ({"names": lines(451)}, {"long_files": {"names": "why"}}),
        (
            {"log/rows": "class Name: ..."},
            {"same_names": {"why": ["Name in log.rows, names"]}},
        ),
    ],
)
def test_what_has_a_reason_is_allowed_while_it_is_needed(look, change, rules):
    """
    A reason excuses what it names; without need it is wrong itself.
    """
    (unneeded,) = look(**rules).wrong
    assert unneeded.endswith("without need")
    assert look(change, **rules).wrong == []


def test_a_reason_holds_for_the_modules_that_it_names(look):
    """
    A third class of the same name needs a new one.
    """
    change = {"log/rows": "class Name: ...", "log/file": "class Name: ..."}
    report = look(change, same_names={"why": ["Name in log.rows, names"]})
    assert report.wrong == [
        "Name in log.file, log.rows, names: no reason given",
        "Name in log.rows, names: a reason without need",
    ]


def test_long_functions_are_listed(look):
    """
    They are not wrong: a long function may be the plainest way to say something long.
    """
    report = look({"names": f"class A:\n  def f(self):{lines(81)}    pass\n  def g(self): ..."})
    assert report.wrong == []
    assert report.lines[-2:] == ["functions over 80 lines: 1", "  names.f has 82 lines"]


def test_private_names_may_stand_twice(look):
    """
    Nobody imports them, so nobody takes one for the other.
    """
    assert look({"names": "class _Part: ...", "log/rows": "class _Part: ..."}).wrong == []


def test_a_floor_without_a_room(look):
    """
    What is gone leaves the table of layers.
    """
    assert look(layers=[*LAYERS, ["cli"]]).wrong == ["cli has a floor, and is not there"]
