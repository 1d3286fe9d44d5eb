"""The words that carry the end of a pause."""

import math

import pytest

from urlguard.blocklist.pause import pause_category, pause_end


@pytest.mark.parametrize("until", [1, 1795480000, 999_999_999 * 604_800])
def test_an_end_comes_back_as_it_was(until):
    """
    From the second after 1970 to the longest duration that can be asked for.
    """
    assert pause_end(pause_category(until)) == until


@pytest.mark.parametrize(
    "text", [pause_category(None), "", "fraud", "until", "until -1", "until 1 ", "until \u0661"]
)
def test_without_an_end_it_is_for_good(text):
    """
    Also for a ruling from before the end was in it: the log ends that one.
    """
    assert pause_end(text) == math.inf
