"""Incident numbers: whose they are, for how long, and what a slip of the tongue makes of one."""

import contextlib
import itertools
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.cases import incidents
from urlguard.cases.incidents import DAY_S, VALID_DAYS, mint, owner, verify
from urlguard.cases.model import StoreError
from urlguard.errors import InputError

KEY = bytes(range(32))
NOW = 1_790_000_000
TODAY = NOW // DAY_S
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def test_a_number_is_of_one_owner_and_one_day():
    """
    It is good for its owner and nobody else, under one key, and tells its day.
    """
    number = mint(KEY, "shop.example", NOW)
    assert verify(KEY, number, "shop.example", NOW) == TODAY
    assert verify(KEY, number, "other.example", NOW) is None
    assert verify(bytes(32), number, "shop.example", NOW) is None
    assert len(number) == len("UG-7K3M-9QX2-4T1")


@pytest.mark.parametrize(
    ("days", "good"),
    [(0, True), (1, True), (VALID_DAYS, True), (VALID_DAYS + 1, False), (1024, False), (-1, True)],
)
def test_how_long_it_is_good(days, good):
    """
    For 90 days, and not again when its day comes round; a clock that is a day behind takes it.
    """
    number = mint(KEY, "shop.example", NOW)
    assert (verify(KEY, number, "shop.example", NOW + days * DAY_S) == TODAY) is good


@pytest.mark.parametrize(
    "change",
    [
        str.lower,
        lambda n: n.replace("-", ""),
        lambda n: n.replace("-", " "),
        lambda n: n.removeprefix("UG-"),
        lambda n: n.replace("0", "O").replace("1", "l"),
        lambda n: f"  {n}. ",
    ],
)
def test_however_it_is_written(change):
    """
    Case, prefix, hyphens and look-alikes do not matter.
    """
    for at in range(50):
        number = mint(KEY, f"shop{at}.example", NOW)
        assert verify(KEY, change(number), f"shop{at}.example", NOW) == TODAY


def test_every_slip_is_noticed():
    """
    Any one wrong character, and any two that changed places, make it mistyped and not another's.
    """
    text = mint(KEY, "shop.example", NOW).removeprefix("UG-").replace("-", "")
    slips = {text[:at] + char + text[at + 1 :] for at in range(len(text)) for char in ALPHABET} | {
        text[:a] + text[b] + text[a + 1 : b] + text[a] + text[b + 1 :]
        for a, b in itertools.combinations(range(len(text)), 2)
    }
    for slip in slips - {text}:
        with pytest.raises(InputError, match="mistyped"):
            verify(KEY, slip, "shop.example", NOW)


@given(st.text(max_size=80))
@pytest.mark.slow
def test_any_text_is_read_or_refused(text):
    """
    No text raises anything but InputError, and none is taken by chance.
    """
    with contextlib.suppress(InputError):
        assert verify(KEY, text, "shop.example", NOW) is None


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("www.shop.example", "shop.example"),
        ("shop.example", "shop.example"),
        ("a.b.pages.dev", "b.pages.dev"),
        ("a.b.google.com", "b.google.com"),
        ("google.com", "google.com"),
        ("pages.dev", "pages.dev"),
    ],
)
def test_whose_a_name_is(name, whose):
    """
    Its registrable domain's; below hosting suffixes and popular domains the customer's.
    """
    assert owner(name) == whose


def test_the_key(tmp_path):
    """
    Made once, for its owner alone; whoever is second takes the first one's.
    """
    first = incidents.key(tmp_path)
    path = tmp_path / incidents.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first) == incidents.KEY_OCTETS
    assert incidents.key(tmp_path) == first
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_is_none(tmp_path):
    """
    A file of another length is refused and left alone; a folder that cannot be written is told.
    """
    path = tmp_path / incidents.FILE
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match="5 octets; must have 32"):
        incidents.key(tmp_path)
    assert path.read_bytes() == b"short"
    with pytest.raises(StoreError, match="No such file"):
        incidents.key(tmp_path / "nowhere")
