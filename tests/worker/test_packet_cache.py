"""Ready answers: how long they stay, and that they stay few."""

import time

import pytest

from urlguard.worker import packet_cache
from urlguard.worker.packet_cache import Ready, ReadyAnswers, Stat


class Loop:
    """An event loop's timers, fired by hand."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay, callback):
        timer = Timer(delay, callback)
        self.timers.append(timer)
        return timer

    def fire(self):
        """Call what is due next."""
        timer = self.timers.pop(0)
        if not timer.cancelled:
            timer.callback()


class Timer:
    def __init__(self, delay, callback):
        self.delay, self.callback, self.cancelled = delay, callback, False

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def loop():
    """A loop without time."""
    return Loop()


def an_answer(octets=b"answer", names=()):
    """A ready answer that nobody counts."""
    return Ready(octets, Stat(), None, names)


def test_answers_stay_until_the_policy_changes(loop):
    """
    In the table that they were put into, which is emptied and not replaced: clients hold it.
    """
    tables = {"": {}, "school": {}}
    answers = ReadyAnswers(tables, loop)
    held = tables["school"]
    answers.put(tables[""], b"a", an_answer(), False)
    answers.put(held, b"a", an_answer(), False)
    assert (len(answers), loop.timers) == (2, [])
    answers.clear()
    assert len(answers) == 0
    assert held is tables["school"]
    assert held == {}


def test_fleeting_answers_stay_for_a_second_at_most(loop):
    """
    One timer for all of them, and none while there are none; others stay.
    """
    table = {}
    answers = ReadyAnswers({"": table}, loop)
    answers.put(table, b"lasting", an_answer(), False)
    for key in (b"a", b"b"):
        answers.put(table, key, an_answer(), True)
    assert [timer.delay for timer in loop.timers] == [1.0]
    loop.fire()
    assert set(table) == {b"lasting"}
    assert loop.timers == []
    answers.put(table, b"c", an_answer(), True)
    assert len(loop.timers) == 1


def test_a_change_of_policy_forgets_the_fleeting_ones_too(loop):
    """
    An answer put in after it is not taken for one of before.
    """
    table = {}
    answers = ReadyAnswers({"": table}, loop)
    answers.put(table, b"a", an_answer(), True)
    answers.clear()
    answers.put(table, b"a", an_answer(b"new"), False)
    loop.fire()
    assert table[b"a"].tail == b"new"


def test_they_are_bounded_over_all_tables(loop, monkeypatch):
    """
    A full set is emptied rather than grown; putting the same again does not fill it.
    """
    monkeypatch.setattr(packet_cache, "MAX_READY", 10)
    tables = {"": {}, "school": {}}
    answers = ReadyAnswers(tables, loop)
    for number in range(100):
        answers.put(
            tables[("", "school")[number % 2]], b"%d" % number, an_answer(), number % 3 == 0
        )
        assert len(answers) <= 10
        assert len(answers._fleeting) <= 10
    answers.clear()
    answers.put(tables[""], b"x", an_answer(), False)
    for _ in range(50):
        answers.put(tables[""], b"same", an_answer(), False)
    assert set(tables[""]) == {b"x", b"same"}


def test_the_same_fleeting_answer_again_does_not_grow_either(loop):
    """
    Who is at its limit has its answer put in again and again within one second.
    """
    table = {}
    answers = ReadyAnswers({"": table}, loop)
    for _ in range(1000):
        answers.put(table, b"same", an_answer(), True)
    assert len(answers._fleeting) <= 10


def test_forgetting_all_takes_no_time(loop):
    """
    The event loop is not held up for a millisecond.
    """
    table = {}
    answers = ReadyAnswers({"": table}, loop)
    for number in range(packet_cache.MAX_READY):
        answers.put(table, b"%d" % number, an_answer(), False)
    began = time.perf_counter()
    answers.clear()
    assert time.perf_counter() - began < 0.02


def test_closed_there_is_no_timer_left(loop):
    """
    A reload puts another in its place.
    """
    table = {}
    answers = ReadyAnswers({"": table}, loop)
    answers.put(table, b"a", an_answer(), True)
    answers.close()
    assert table == {}
    assert all(timer.cancelled for timer in loop.timers)


def test_a_change_takes_out_what_depends_on_the_name(loop):
    """
    The name, those below it, and answers that lead there; all others stay.
    """
    tables = {"": {}, "school": {}}
    answers = ReadyAnswers(tables, loop)
    kept = {
        b"itself": ["evil.example"],
        b"below": ["www.evil.example"],
        b"leads": ["fine.example", "cdn.evil.example"],
        b"beside": ["notevil.example"],
        b"above": ["example"],
        b"other": ["evil.example.org"],
    }
    for key, names in kept.items():
        for table in tables.values():
            answers.put(table, key, an_answer(key, names), key == b"leads")
    answers.changed(["evil.example"])
    for table in tables.values():
        assert set(table) == {b"beside", b"above", b"other"}
    assert len(answers) == 6
    answers.changed([])
    assert len(answers) == 6
    answers.changed(None)
    assert len(answers) == 0
