"""Time that passes, an engine that rules and an upstream that speaks, as they are told."""

import heapq
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rrset

from urlguard.plugins import Answer
from urlguard.verdict import Ruling
from urlguard.wire.reply import Reply, failure, read_reply


class Handle:
    """What `Clock.call_later` returns."""

    def __init__(self, callback, arguments):
        self.callback, self.arguments = callback, arguments
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class Clock:
    """As much of an event loop as plugins use."""

    def __init__(self):
        self.now = 1000.0
        self._number = itertools.count()
        self._timers = []

    def time(self):
        return self.now

    def call_later(self, delay, callback, *arguments):
        return self.call_at(self.now + delay, callback, *arguments)

    def call_at(self, when, callback, *arguments):
        handle = Handle(callback, arguments)
        heapq.heappush(self._timers, (when, next(self._number), handle))
        return handle

    @property
    def timers(self):
        """How many are set."""
        return sum(not handle.cancelled for _, _, handle in self._timers)

    def pass_s(self, seconds):
        """Let time pass; what was to be called is called, at its time."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled:
                handle.callback(*handle.arguments)
        self.now = end


def rrset(text):
    """Records from a line, of one owner and type: data are separated by `` | ``."""
    name, ttl, kind, data = text.split(" ", 3)
    return dns.rrset.from_text(name, int(ttl), "IN", kind, *data.split(" | "))


def made(x, *answer, authority=(), additional=(), rcode=0, flags=0):
    """An upstream's reply to `q`, read; lines without the class, such as ``a. 60 A 192.0.2.1``."""
    message = dns.message.Message(x.query.id)
    message.flags = dns.flags.QR | dns.flags.RA | flags
    message.question = [dns.rrset.RRset(dns.name.from_text(x.query.name), 1, x.query.qtype)]
    message.set_rcode(rcode)
    message.answer = [rrset(text) for text in answer]
    message.authority = [rrset(text) for text in authority]
    message.additional = [rrset(text) for text in additional]
    wire = message.to_wire(max_size=65535)
    return read_reply(wire, x.query.question_end, x.query.qtype)


class Below:
    """
    What stands behind a cache: it notes each question, and answers when it is told to.

    With ``says``, a function of the query, it answers at once.
    """

    def __init__(self, says=None):
        self.says = says
        self.asked = []
        self.open = []

    def __call__(self, x, done):
        self.asked.append(x)
        if self.says is None:
            self.open.append((x, done))
        else:
            found = self.says(x)
            done(x, as_answer(found) if isinstance(found, Reply) else found)

    def answer(self, *lines, **keys):
        """Answer the question that has waited longest."""
        x, done = self.open.pop(0)
        done(x, as_answer(made(x, *lines, **keys)))

    def fail(self, rcode=2, ede=22):
        """The same, with an error."""
        x, done = self.open.pop(0)
        done(x, as_answer(failure(rcode, ede)))


def as_answer(reply):
    """A reply as `forward` hands it up."""
    return Answer(None, "forward", reply=reply)


class FakeActiveEngine:
    """A stand-in for the worker's cell: rulings by name, and the callbacks that subscribed."""

    def __init__(self, rulings: dict[str, Any] | None = None) -> None:
        self.rulings = rulings or {}
        self.asked: list[str] = []
        self.engine = SimpleNamespace(decide=self._decide, paused=False, shadow=lambda: None)
        self.callbacks: list[Callable[[], None]] = []

    def _decide(self, name: str) -> Ruling | None:
        self.asked.append(name)
        return self.rulings.get(name)

    def subscribe(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        self.callbacks.remove(callback)

    def change(self, **rulings: Any) -> None:
        """Rule otherwise from now on; underscores stand for dots, None for no rule."""
        for name, ruling in rulings.items():
            self.rulings[name.replace("_", ".")] = ruling
        for callback in self.callbacks:
            callback(None)


def ruling(action: str = "block", *sources: str, category: str = "phishing") -> Ruling:
    """A ruling with the given action and sources."""
    return Ruling(action, category, sources or ("feed:x",), 7, "subtree", "evil.example")
