"""The examples and limits in the page about messages are the code's."""

import re
from pathlib import Path

import pytest

from tests.messages import test_tables
from urlguard.api.v1 import checks
from urlguard.messages import MAX_FOUND, MAX_TEXT, find

PAGE = (Path(__file__).parents[2] / "docs" / "messages.md").read_text("utf-8")
ROW = re.compile(r"^\| `([^`]+)`[^|]* \| `([^`]+)` \|$", re.M)
SPELLINGS = ROW.findall(PAGE.partition("| written | found |")[2].partition("\n\n")[0])


@pytest.mark.parametrize(("written", "item"), SPELLINGS)
def test_the_spellings_on_the_page_are_found(written, item):
    """
    What the page says is found is what is found, by itself and in a sentence.
    """
    assert [one.item for one in find(written)] == [item]
    assert [one.item for one in find(f"您的包裹滞留，请打开 {written} ，今日有效")] == [item]


def test_the_example():
    """
    The answer on the page is that to the request on it.
    """
    text = re.search(r'"text": "([^"]*hxxps[^"]*)"', PAGE)[1]
    (one,) = find(text)
    assert f'"start": {one.start}, "end": {one.end}, "text": "{one.text}"' in PAGE
    assert f'"item": "{one.item}"' in PAGE


def test_figures():
    """
    Limits and the sizes of the tables are those of the code.
    """
    assert len(SPELLINGS) >= 15
    assert f"| messages in a request | {checks.MAX_MESSAGES:,} |" in PAGE
    assert f"| characters of a message | {MAX_TEXT:,};" in PAGE
    assert f"| places reported of a message | {MAX_FOUND} |" in PAGE
    scam, harmless = len(test_tables.SCAM), len(test_tables.HARMLESS)
    assert f"The tests hold {scam} scam and {harmless} harmless messages" in PAGE
