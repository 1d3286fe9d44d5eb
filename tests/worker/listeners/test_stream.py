"""Messages on a stream, in whatever pieces they come."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.worker.listeners.stream import MAX_MESSAGE, MessageReader, frame


def taken(reader):
    """All messages that are there to their end."""
    return list(iter(reader.next, None))


def test_a_message_has_its_length_before_it():
    """
    Two octets, the higher first (RFC 7766 section 8).
    """
    assert frame(b"") == b"\0\0"
    assert frame(b"abc") == b"\0\3abc"
    assert frame(bytes(MAX_MESSAGE))[:2] == b"\xff\xff"


def test_an_oversize_message_is_refused():
    """
    Its length would not fit, and a shorter one would be a lie.
    """
    with pytest.raises(ValueError, match="65536 octets; must be at most 65535"):
        frame(bytes(MAX_MESSAGE + 1))


@pytest.mark.parametrize("cut", range(8))
def test_a_message_may_come_in_two_pieces(cut):
    """
    Cut anywhere, within its length too.
    """
    reader = MessageReader()
    whole = frame(b"hello")
    reader.feed(whole[:cut])
    assert (reader.whole, reader.next()) == ((True, b"hello") if cut == 7 else (False, None))
    reader.feed(whole[cut:])
    assert taken(reader) == ([] if cut == 7 else [b"hello"])
    assert len(reader) == 0


def test_a_length_of_zero_is_an_empty_message():
    """
    And not the end of what there is.
    """
    reader = MessageReader()
    reader.feed(b"\0\0" + frame(b"next"))
    assert reader.whole
    assert taken(reader) == [b"", b"next"]


def test_pipelined_messages_come_out_in_order():
    """
    One by one, and the rest stays until it is complete.
    """
    reader = MessageReader()
    reader.feed(frame(b"one") + frame(b"two") + frame(b"three")[:4])
    assert reader.next() == b"one"
    assert (reader.whole, len(reader)) == (True, 9)
    assert reader.next() == b"two"
    assert (reader.whole, reader.next(), len(reader)) == (False, None, 4)
    reader.feed(frame(b"three")[4:])
    assert taken(reader) == [b"three"]


def test_the_longest_message_is_read():
    """
    And no octet of the next one.
    """
    reader = MessageReader()
    reader.feed(frame(bytes(MAX_MESSAGE)) + b"\0")
    assert reader.next() == bytes(MAX_MESSAGE)
    assert (reader.next(), len(reader)) == (None, 1)


def test_what_was_taken_out_is_not_kept():
    """
    A connection that goes idle after a burst holds no more than what is not read yet.
    """
    reader = MessageReader()
    reader.feed(frame(bytes(60_000)) * 4 + b"\0")
    assert len(taken(reader)) == 4
    assert len(reader._buffer) == 1


def test_a_header_before_the_first_message():
    """
    Is looked at and passed over.
    """
    reader = MessageReader()
    reader.feed(b"HEADER" + frame(b"query"))
    assert reader.peek(6) == b"HEADER"
    assert reader.peek(100) == b"HEADER" + frame(b"query")
    reader.skip(6)
    assert (reader.peek(2), len(reader)) == (b"\0\5", 7)
    assert taken(reader) == [b"query"]


def test_cleared_there_is_nothing():
    """
    Neither messages nor the beginning of one.
    """
    reader = MessageReader()
    reader.feed(frame(b"one") + b"\0\5he")
    assert reader.next() == b"one"
    reader.clear()
    assert (len(reader), reader.whole, reader.next()) == (0, False, None)


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.integers(0, 200), max_size=8),
    st.booleans(),
)
def test_the_pieces_make_no_difference(messages, cuts, at_once):
    """
    The same messages come out however they came in and whenever they are taken out.
    """
    octets = b"".join(map(frame, messages))
    places = sorted({min(cut, len(octets)) for cut in cuts} | {0, len(octets)})
    reader, got = MessageReader(), []
    for start, end in itertools.pairwise(places):
        reader.feed(octets[start:end])
        if at_once:
            got += taken(reader)
    got += taken(reader)
    assert got == messages
    assert len(reader) == 0
