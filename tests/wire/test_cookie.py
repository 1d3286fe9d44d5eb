"""DNS cookies: RFC 9018's examples, lifetimes, rotation, and what is malformed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.errors import WireError
from urlguard.wire import cookie
from urlguard.wire.cookie import Cookies, siphash

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
CLIENT = bytes.fromhex("2464c4abcf10c957")
HOST = bytes([198, 51, 100, 100])
START = 1559731985


def content(option):
    """What stands in an option, as hexadecimal; its code and length are checked."""
    assert option[:2] == b"\0\x0a"
    assert int.from_bytes(option[2:4]) == len(option) - 4 == 24
    return option[4:].hex()


def test_siphash():
    """
    The test vectors of SipHash's authors, of every length from 0 to 15, come out.
    """
    key = bytes(range(16))
    known = {
        0: "310e0edd47db6f72",
        1: "fd67dc93c539f874",
        7: "37d1018bf50002ab",
        8: "6224939a79f5f593",
        15: "e545be4961ca29a1",
    }
    for size, digest in known.items():
        assert siphash(key, bytes(range(size))).hex() == digest


@pytest.mark.parametrize(
    ("secret", "host", "shown", "at", "expected"),
    [
        # RFC 9018 appendix A.1 to A.4.
        (
            SECRET,
            "c6336464",
            "2464c4abcf10c957",
            1559731985,
            "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
        ),
        (
            SECRET,
            "c6336464",
            "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
            1559734385,
            "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
        ),
        (
            SECRET,
            "cb0071cb",
            "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
            1559734700,
            "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e",
        ),
        (
            bytes.fromhex("445536bcd2513298075a5d379663c962"),
            "20010db80220000159ded0f4876982b8",
            "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
            1559741961,
            "22681ab97d52c298010000005cf7c609a6bb79d16625507a",
        ),
    ],
)
def test_the_examples_of_rfc_9018(secret, host, shown, at, expected):
    """
    What the RFC's servers answer at their time, this one answers.
    """
    option, _ = Cookies(secret).answer(bytes.fromhex(shown), bytes.fromhex(host), at)
    assert content(option) == expected


def test_reserved_octets_are_part_of_the_hash():
    """
    A cookie with other reserved octets, RFC 9018 A.3, is accepted in its time.
    """
    shown = bytes.fromhex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5")
    host = bytes.fromhex("cb0071cb")
    assert Cookies(SECRET).answer(shown, host, 1559727985 + 10)[1]
    other = shown[:9] + b"\0" + shown[10:]
    assert not Cookies(SECRET).answer(other, host, 1559727985 + 10)[1]


@pytest.mark.parametrize(
    ("age", "valid", "renewed"),
    [
        (-301, False, True),
        (-300, True, False),
        (0, True, False),
        (1799, True, False),
        (1800, True, True),
        (3600, True, True),
        (3601, False, True),
    ],
)
@pytest.mark.parametrize("warm", [True, False])
def test_lifetimes(age, valid, renewed, warm):
    """
    Valid for an hour, replaced after half of it, five minutes of clock error; also remembered.
    """
    cookies = Cookies(SECRET)
    shown = cookies.answer(CLIENT, HOST, START)[0][4:]
    if warm:
        for step in range(-400, age, 100):
            cookies.answer(shown, HOST, START + step)
        cookies.answer(shown, HOST, START + age - 1)
    else:
        cookies = Cookies(SECRET)
    option, found = cookies.answer(shown, HOST, START + age)
    assert found is valid
    assert (option[4:] != shown) is renewed
    assert cookies.answer(option[4:], HOST, START + age)[1]


def test_time_wraps_around():
    """
    In 2106 cookies go on (RFC 1982 arithmetic).
    """
    cookies = Cookies(SECRET)
    shown = cookies.answer(CLIENT, HOST, (1 << 32) - 10)[0][4:]
    assert cookies.answer(shown, HOST, (1 << 32) + 10) == (b"\0\x0a\0\x18" + shown, True)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 23])
def test_a_cookie_holds_for_its_client_and_address_alone(at):
    """
    One bit changed anywhere, or another address, and it is not valid; a new one is given.
    """
    cookies = Cookies(SECRET)
    shown = cookies.answer(CLIENT, HOST, START)[0][4:]
    forged = bytearray(shown)
    forged[at] ^= 1
    option, valid = cookies.answer(bytes(forged), HOST, START)
    assert not valid
    assert option[4:12] == forged[:8]
    assert not cookies.answer(shown, bytes([198, 51, 100, 101]), START)[1]
    assert cookies.answer(shown, HOST, START)[1]


def test_the_secret_can_change():
    """
    Cookies of the secret before are valid, and replaced at once; others are not.
    """
    old, new = b"o" * 16, b"n" * 16
    shown = Cookies(old).answer(CLIENT, HOST, START)[0][4:]
    option, valid = Cookies(new, old).answer(shown, HOST, START + 1)
    assert valid
    assert option == Cookies(new).answer(CLIENT, HOST, START + 1)[0]
    assert not Cookies(new).answer(shown, HOST, START + 1)[1]


@pytest.mark.parametrize("size", [16, 17, 23, 25, 32, 40])
def test_cookies_of_other_servers_are_no_error(size):
    """
    A server cookie of a permitted length that is not ours gets a new one.
    """
    option, valid = Cookies(SECRET).answer(bytes([1]) * size, HOST, START)
    assert not valid
    assert content(option)[:16] == "01" * 8


def test_versions_that_we_do_not_make():
    """
    A server cookie of another version is not read as one of ours, whatever its hash.
    """
    for version in (1, 2):
        head = bytes([version, 0, 0, 0]) + START.to_bytes(4)
        shown = CLIENT + head + siphash(SECRET, CLIENT + head + HOST)
        assert Cookies(SECRET).answer(shown, HOST, START)[1] is (version == 1)


@pytest.mark.parametrize("size", [*range(8), *range(9, 16), 41, 65535])
def test_malformed_lengths(size):
    """
    A COOKIE option of another length is FORMERR (RFC 7873 section 5.2.2).
    """
    with pytest.raises(WireError, match=f"{size} octets") as caught:
        Cookies(SECRET).answer(bytes(size), HOST, START)
    assert caught.value.rcode == 1


@given(st.binary(max_size=50), st.binary(min_size=4, max_size=16), st.integers(0, 1 << 33))
def test_any_option_is_answered_or_an_error(option, host, now):
    """
    Whatever is sent, the answer is a whole option with a cookie that holds, or WireError.
    """
    cookies = Cookies(SECRET)
    try:
        made, _ = cookies.answer(option, host, now)
    except WireError:
        return
    assert cookies.answer(made[4:], host, now) == (made, True)


def test_memory_is_bounded(monkeypatch):
    """
    Ever new cookies do not make the table grow.
    """
    monkeypatch.setattr(cookie, "MAX_REMEMBERED", 10)
    cookies = Cookies(SECRET)
    for i in range(100):
        cookies.answer(i.to_bytes(8), HOST, START)
        assert len(cookies._known) <= 10


@pytest.mark.parametrize("secrets", [(b"", None), (b"1" * 15, None), (b"1" * 16, b"2" * 17)])
def test_secrets_of_another_size(secrets):
    """
    A secret that is not a SipHash key is refused with its size.
    """
    with pytest.raises(ValueError, match=r"cookie secret: \d+ octets; must be 16"):
        Cookies(*secrets)
