"""
Break messages where it hurts: lengths, counts, pointers, types, and what follows what.

A mutation is drawn from a `random.Random`, so that a seed repeats it.
"""

import random
from typing import Final, NamedTuple

_OCTETS: Final = (0, 1, 2, 0x29, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xFF)
_PAIRS: Final = (0, 1, 2, 3, 4, 11, 12, 41, 64, 255, 256, 512, 0x3FFF, 0xC000, 0xC00C, 0xFFFF)
_TYPES: Final = (0, 1, 2, 5, 6, 12, 15, 16, 28, 39, 41, 46, 64, 65, 250, 252, 255, 65535)
_MAX: Final = 4096  # octets of what comes out


class Shape(NamedTuple):
    """Where things stand in a message; offsets in octets, as far as it could be read."""

    labels: list[int]  # length octets
    numbers: list[int]  # 16-bit fields: counts, types, classes, lengths, option codes
    records: list[tuple[int, int]]  # start and end
    ttls: list[int]
    body: int  # after the question


def shape(data: bytes) -> Shape:
    """Read a message's outline, and put up with anything."""
    found = Shape([], [0, 2, 4, 6, 8, 10], [], [], 12)
    if len(data) < 12:
        return found
    at = 12
    questions = int.from_bytes(data[4:6])
    for _ in range(min(questions, 3)):
        at = _name(data, at, found.labels)
        found.numbers.extend((at, at + 2))
        at += 4
    found = found._replace(body=min(at, len(data)))
    while at < len(data):
        start = at
        at = _name(data, at, found.labels)
        if at + 10 > len(data):
            break
        found.numbers.extend((at, at + 2, at + 4, at + 6, at + 8))
        rtype, size = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 8 : at + 10])
        if rtype != 41:
            found.ttls.append(at + 4)
        at += 10
        end = at + size
        if rtype == 41:
            while at + 4 <= min(end, len(data)):
                found.numbers.extend((at, at + 2))
                at += 4 + int.from_bytes(data[at + 2 : at + 4])
        at = end
        found.records.append((start, min(end, len(data))))
    return found


def _name(data: bytes, at: int, labels: list[int]) -> int:
    while at < len(data):
        labels.append(at)
        length = data[at]
        if length >= 0xC0:
            return at + 2
        at += length + 1
        if not length:
            break
    return at


class Mutator:
    """
    Makes broken messages of a corpus.

    Args:
        corpus: messages to begin with, and to splice with.
        fixed: so many octets at the front, such as the ID, are put back afterwards.
    """

    def __init__(self, corpus: list[bytes], seed: int, fixed: int = 0) -> None:
        self.corpus = corpus
        self.rng = random.Random(seed)
        self._fixed = fixed
        self._ways = (
            self._flip,
            self._flip,
            self._octet,
            self._number,
            self._number,
            self._number,
            self._label,
            self._label,
            self._type,
            self._cut,
            self._cut_record,
            self._repeat,
            self._swap,
            self._splice,
            self._insert,
            self._append,
        )

    def one(self, data: bytes | None = None) -> bytes:
        """One message, broken in one to four ways; one of the corpus if none is given."""
        rng = self.rng
        if data is None:
            data = rng.choice(self.corpus)
        front = data[: self._fixed]
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            if data:
                data = rng.choice(self._ways)(data)[:_MAX]
        return front + data[self._fixed :] if self._fixed else data

    def _flip(self, data: bytes) -> bytes:
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]

    def _octet(self, data: bytes) -> bytes:
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([self.rng.choice(_OCTETS)]) + data[at + 1 :]

    def _number(self, data: bytes) -> bytes:
        """Another value for a count, a length or a type: near the old one, or extreme."""
        numbers = [at for at in shape(data).numbers if at + 2 <= len(data)]
        if not numbers:
            return data
        at = self.rng.choice(numbers)
        if self.rng.random() < 0.5:
            value = int.from_bytes(data[at : at + 2]) + self.rng.choice((-2, -1, 1, 2, 4))
        else:
            value = self.rng.choice((*_PAIRS, len(data), len(data) - at))
        return data[:at] + (value & 0xFFFF).to_bytes(2) + data[at + 2 :]

    def _type(self, data: bytes) -> bytes:
        """Another type for a record, whose data stay what they were."""
        found = shape(data)
        if not found.records:
            return data
        start, _ = self.rng.choice(found.records)
        at = _name(data, start, [])
        return data[:at] + self.rng.choice(_TYPES).to_bytes(2) + data[at + 2 :]

    def _label(self, data: bytes) -> bytes:
        """Another length for a label, or a compression pointer in its place."""
        labels = [at for at in shape(data).labels if at < len(data)]
        if not labels:
            return data
        at = self.rng.choice(labels)
        if self.rng.random() < 0.5:
            value = self.rng.choice((0, 1, 62, 63, 64, 128, 192, 255, data[at] + 1, data[at] - 1))
            return data[:at] + bytes([value & 255]) + data[at + 1 :]
        to = self.rng.choice((0, 2, 11, 12, 13, at, at - 1, at + 2, len(data), 0x3FFF))
        return data[:at] + (0xC000 | to & 0x3FFF).to_bytes(2) + data[at + 2 :]

    def _cut(self, data: bytes) -> bytes:
        return data[: self.rng.randrange(len(data))]

    def _cut_record(self, data: bytes) -> bytes:
        """Take a record away; the counts stay, mostly."""
        found = shape(data)
        if not found.records:
            return data
        start, end = self.rng.choice(found.records)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        """A record several times; half of the time one of the counts says so too."""
        found = shape(data)
        if not found.records:
            return data + data[12:]
        start, end = self.rng.choice(found.records)
        times = self.rng.choice((1, 1, 2, 20))
        more = data[:end] + data[start:end] * times + data[end:]
        if self.rng.random() < 0.5:
            at = self.rng.choice((6, 8, 10))
            count = int.from_bytes(data[at : at + 2]) + times & 0xFFFF
            more = more[:at] + count.to_bytes(2) + more[at + 2 :]
        return more

    def _swap(self, data: bytes) -> bytes:
        """Two records in each other's place; pointers now point elsewhere."""
        found = shape(data)
        if len(found.records) < 2:
            return data
        (a, b), (c, d) = sorted(self.rng.sample(found.records, 2))
        return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]

    def _splice(self, data: bytes) -> bytes:
        """The front of this one and the back of another."""
        other = self.rng.choice(self.corpus)
        if self.rng.random() < 0.5:
            return data[: shape(data).body] + other[shape(other).body :]
        at = self.rng.randrange(len(data))
        return data[:at] + other[at:]

    def _insert(self, data: bytes) -> bytes:
        at = self.rng.randrange(len(data) + 1)
        return data[:at] + self.rng.randbytes(self.rng.choice((1, 2, 4, 40))) + data[at:]

    def _append(self, data: bytes) -> bytes:
        return data + self.rng.choice((b"\0", self.rng.randbytes(30), self.rng.choice(self.corpus)))
