"""
Messages as they are sent, with what is to be found in them.

``scam.tsv`` has a message and the items in it, as they are canonical, on each line; in what
``harmless.tsv`` has, nothing is to be found.  All were written for these tests, and names nobody.
"""

from pathlib import Path

import pytest

from urlguard import names, urls
from urlguard.messages import find

HERE = Path(__file__).parent
LEAST_ROWS, LEAST_FOUND = 200, 0.98


def rows(name):
    """The rows of a table, in columns."""
    lines = (HERE / name).read_text("utf-8").split("\n")
    assert lines.pop() == ""
    return [line.split("\t") for line in lines]


SCAM, HARMLESS = rows("scam.tsv"), rows("harmless.tsv")


def test_tables_are_large_and_without_repetitions():
    """
    Each has at least 200 messages, none of them twice, and none is in both.
    """
    assert len(SCAM) >= LEAST_ROWS
    assert len(HARMLESS) >= LEAST_ROWS
    messages = [row[0] for row in SCAM + HARMLESS]
    assert len(set(messages)) == len(messages)
    assert {len(row) for row in SCAM} == {2}
    assert {len(row) for row in HARMLESS} == {1}


def test_expectations_are_canonical():
    """
    What is expected is what an answer could hold, so that no typing error counts as a miss.
    """
    for _, expected in SCAM:
        for item in expected.split(" "):
            made = urls.parse(item).canonical if "://" in item else names.canonical(item)
            assert made == item


def test_scam_messages():
    """
    Of what scam messages lead to, 98 of 100 messages are read exactly: nothing is missing, nothing
    is more.
    """
    missed = [
        (message, expected, found)
        for message, expected in SCAM
        if (found := " ".join(one.item for one in find(message))) != expected
    ]
    report = "\n".join(
        f"{message}: {found!r}, not {expected}" for message, expected, found in missed
    )
    assert 1 - len(missed) / len(SCAM) >= LEAST_FOUND, report


@pytest.mark.parametrize("message", [row[0] for row in HARMLESS])
def test_harmless_messages(message):
    """
    Nothing is found in messages between people and of honest senders.
    """
    assert find(message) == []
