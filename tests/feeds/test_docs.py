"""The page about feeds is true: its examples load and its lines become what it says."""

import re
import tomllib
from pathlib import Path

import pytest

from urlguard import config
from urlguard.config import Feed
from urlguard.feeds import csvfile, formats, lines

PAGE = (Path(__file__).parents[2] / "docs" / "feeds.md").read_text("utf-8")
ROWS = re.findall(r"^\| (\w+) \| `(.+)` \| (?:`(.+)`|nothing: ignored) \|$", PAGE, re.M)


@pytest.mark.parametrize(("form", "line", "rule"), ROWS)
def test_the_table_of_formats(form, line, rule):
    """
    Each line in the table becomes the rule beside it, or is ignored.
    """
    out = formats.parse(line.replace("\\|", "|").encode(), Feed(name="t", format=form))
    got = [*out.rules, *(f"except {key}" for key in out.exceptions)]
    assert got == ([rule] if rule else [])
    assert sum(out.ignored.values()) == (not rule)


def test_every_format_has_a_word():
    """
    The table and the list below it leave no format out.
    """
    assert {row[0] for row in ROWS} == {"domains", "hosts", "adblock", "dnsmasq", "rpz", "urls"}
    assert "**csv**" in PAGE


@pytest.mark.parametrize("example", re.findall(r"```toml\n(.*?)```", PAGE, re.S))
def test_examples_load(example):
    """
    Each example is a configuration.
    """
    assert config.parse(tomllib.loads(example), Path("/etc/urlguard.toml")).feed


@pytest.mark.parametrize(
    "word",
    [
        *csvfile.VALUE_COLUMNS,
        *csvfile.CATEGORY_COLUMNS,
        *sorted(lines.AdBlock.whole),
        *("max_bad", "max_rules", "max_bytes", "timeout_s", "max_shrink", "max_growth"),
        *("allow_http", "allow_private", "column", "category_column", "refresh_s"),
    ],
)
def test_words_that_the_code_knows_are_on_the_page(word):
    """
    Column names, modifiers and limits in the code are the ones that the page names.
    """
    assert re.search(rf"`(?:[^`\n]*\W)?{word}\W?[^`]*`|^{word} =", PAGE, re.M)
