"""Suspects on their way out of a worker."""

import asyncio
import json
from types import SimpleNamespace

from urlguard.classify.suspects import SuspectMemory
from urlguard.worker import suspects
from urlguard.worker.suspects import Suspects


class World:
    """A worker's suspects, and names that people have decided about."""

    def __init__(self, count):
        self.memory = SuspectMemory(clock=lambda: 1000.0)
        for number in range(count):
            self.memory.note(f"suspect-{number}.com", 0.5 + number / 10_000, "review", "m")
        self.decided = set()
        self.turns = 0
        self.suspects = Suspects(
            lambda: [self.memory], lambda: lambda name: name in self.decided or None
        )

    def ask(self, what, message, between=lambda turn: None):
        """The reply, and what is called at each turn of the loop meanwhile."""
        written = []

        async def run():
            writer = SimpleNamespace(write=written.append)
            telling = asyncio.create_task(getattr(self.suspects, what)(message, writer))
            while not telling.done():
                self.turns += 1
                between(self.turns)
                await asyncio.sleep(0)
            await telling

        asyncio.run(run())
        if not written:
            return None
        (line,) = written
        assert line.endswith(b"}\n")
        return json.loads(line)


def test_they_are_told_in_pieces():
    """
    Between which queries are answered; names that people have decided on meanwhile are left out.
    """
    world = World(600)

    def between(turn):
        if turn == 3:
            world.decided.add("suspect-100.com")

    reply = world.ask("top", {"id": 7, "count": 500}, between)
    assert reply["id"] == 7
    expected = [f"suspect-{n}.com" for n in range(599, 99, -1) if n != 100]
    assert [row[0] for row in reply["names"]] == expected
    assert reply["names"][0] == list(world.memory.top(1)[0])
    assert world.turns >= 500 / suspects.ROWS


def test_each_is_handed_over_once_until_it_is_asked_for_again():
    """
    With the queries since the last time; and again as long as nobody has said that he has it.
    """
    world = World(suspects.MAX_UNREPORTED + 50)
    first = world.ask("unreported", {"id": 1})["names"]
    assert len(first) == suspects.MAX_UNREPORTED
    assert world.ask("unreported", {"id": 2})["names"] == first
    world.ask("acknowledged", {"names": [(row[0], row[2]) for row in first]})
    rest = world.ask("unreported", {"id": 3})["names"]
    assert len(rest) == 50
    world.ask("acknowledged", {"names": [(row[0], row[2]) for row in rest]})
    assert world.ask("unreported", {"id": 4})["names"] == []
    for _ in range(3):
        world.memory.note("suspect-7.com", 0.6, "review", "m")
    (row,) = world.ask("unreported", {"id": 5})["names"]
    assert (row[0], row[2], row[-1]) == ("suspect-7.com", 4, 3)


def test_what_people_have_decided_is_not_handed_over():
    """
    And does not stand in the way of the others.
    """
    world = World(suspects.MAX_UNREPORTED + 50)
    world.decided = {f"suspect-{n}.com" for n in range(suspects.MAX_UNREPORTED)}
    assert world.ask("unreported", {"id": 1})["names"] == []
    assert len(world.ask("unreported", {"id": 2})["names"]) == 50


def test_marks_of_names_that_are_gone():
    """
    A mark for a name that was forgotten, or beyond what was asked, does no harm.
    """
    world = World(1)
    world.ask("acknowledged", {"names": [("gone.example", 5), ("suspect-0.com", 10**12)]})
    world.memory.note("suspect-0.com", 0.6, "review", "m")
    (row,) = world.ask("unreported", {"id": 1})["names"]
    assert row[-1] == 1
