"""An attacker who cannot see the queries floods forged replies: none is taken, all are counted."""

import pytest

from benchmarks.forging import attack


async def test_a_blind_flood_of_forged_replies_never_gets_in():
    """
    Guessing port, ID and spelling, 20,000 times beside true answers, gets nowhere; what hits one of
    our ports is counted.  `python -m benchmarks.forging` does it a million times.
    """
    result = await attack(20_000)
    assert (result.taken, result.lost) == (0, 0)
    assert result.answered >= 320
    assert result.counters["wrong_id"] + result.counters["wrong_port"] > 0
    # 256 of 64,512 ports at most are ours at a time, so that hardly anything even arrives.
    assert result.counters["wrong_id"] + result.counters["wrong_port"] < 1000


@pytest.mark.parametrize(
    ("knows", "counter"), [("port", "wrong_id"), ("id", "wrong_case")], ids=["port", "id"]
)
async def test_who_knows_more_than_can_be_known_gets_no_further(knows, counter):
    """
    With the ports told, IDs are guessed in vain, and with the IDs too, spellings.
    """
    result = await attack(20_000, knows)
    assert (result.taken, result.lost) == (0, 0)
    assert result.counters[counter] > 10_000
    assert result.answered >= 320
