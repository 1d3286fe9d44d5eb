"""Signed notes: other implementations' examples, our own, and whatever may be in a file."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from urlguard.errors import InputError
from urlguard.policy import note

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = note.public_key(KEY)
HASH = "ab" * 32

# The example of Go's package golang.org/x/mod/sumdb/note, where these signatures come from.
NEUMANN = b"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n"
NEUMANN_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NEUMANN_SIGNATURE = (
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)
# The example of C2SP's tlog-checkpoint.
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""  # noqa: E501


def made(serial=7, key=KEY):
    return note.signed(key, serial, HASH)


def read(text, *keys):
    """The checkpoints of a text, checked with `keys`."""
    return [note.opened(one, keys) for one in note.parse(text.encode(), "f")]


def test_a_note_of_another_implementation_is_genuine():
    """
    Key line, key ID and signature as Go's note package writes them.
    """
    (key,) = note.parse_keys(NEUMANN, "k")
    assert (key.name, key.id.hex(), f"{key}\n") == ("PeterNeumann", "c74f20a3", NEUMANN.decode())
    checkpoint = note.Checkpoint("PeterNeumann", 1, HASH)
    signature = ("PeterNeumann", base64.b64decode(NEUMANN_SIGNATURE))
    found = note.Note("n", NEUMANN_TEXT, checkpoint, (signature,))
    assert note.opened(found, [key]) == checkpoint
    with pytest.raises(InputError, match="the signature is wrong"):
        note.opened(found._replace(text=NEUMANN_TEXT.replace("problem", "Problem")), [key])


def test_the_example_of_the_specification_is_read():
    """
    Origin, size, hash and one signature.
    """
    (found,) = note.parse(SOFA.encode(), "f")
    assert found.checkpoint[:2] == ("example.com/behind-the-sofa", 20852163)
    assert found.checkpoint.hash.startswith("0ac5186a91863e8e")
    assert found.text == SOFA.partition("\n\n")[0] + "\n"
    ((name, octets),) = found.signatures
    assert (name, octets[:4].hex(), len(octets)) == (found.checkpoint.origin, "033de0ae", 68)


def test_what_we_sign_is_read_again():
    """
    The form is exactly that of the specification, and a key's name is its own.
    """
    lines = made().split("\n")
    assert lines[1:4] == ["7", base64.b64encode(bytes.fromhex(HASH)).decode(), ""]
    assert lines[4].startswith(f"— {lines[0]} ")
    assert lines[5:] == [""]
    assert read(made(), PUBLIC) == [(PUBLIC.name, 7, HASH)]
    assert note.parse_keys(f"{PUBLIC}\n".encode(), "k") == [PUBLIC]
    assert PUBLIC.name != note.public_key(OTHER).name


def test_several_notes_in_a_file():
    """
    One after the other, with or without empty lines between.
    """
    for between in ("", "\n", "\n\n\n"):
        assert [c.serial for c in read(between.join([made(1), made(2), made(3)]), PUBLIC)] == [
            1,
            2,
            3,
        ]


def test_signatures_of_others_are_passed_over():
    """
    A witness's, also of another sort; neither does it help where ours is missing.
    """
    witness = "— witness.example/w " + base64.b64encode(b"\1\2\3\4" + b"x" * 300).decode() + "\n"
    assert read(made() + witness, PUBLIC)
    text, _, own = made().partition("\n\n")
    assert read(f"{text}\n\n{witness}{own}", PUBLIC)
    with pytest.raises(InputError, match=r"must be signed by urlguard\.invalid/log/"):
        read(f"{text}\n\n{witness}", PUBLIC)


def test_extension_lines_are_signed_and_else_nothing():
    """
    The specification permits them; what they say is not looked at.
    """
    text = made().partition("\n\n")[0] + "\nmore of it\n"
    signature = base64.b64encode(PUBLIC.id + KEY.sign(text.encode())).decode()
    assert read(f"{text}\n— {PUBLIC.name} {signature}\n", PUBLIC)[0].serial == 7


def test_the_origin_is_the_signing_key():
    """
    A key speaks for its own log alone.
    """
    text = made().partition("\n\n")[0].replace(PUBLIC.name, "other.example/log") + "\n"
    signature = base64.b64encode(PUBLIC.id + KEY.sign(text.encode())).decode()
    with pytest.raises(InputError, match="must be signed by"):
        read(f"{text}\n— {PUBLIC.name} {signature}\n", PUBLIC)


def test_an_unknown_key():
    """
    The message says whose the checkpoint is and whose it must be.
    """
    with pytest.raises(InputError) as told:
        read(made(key=OTHER), PUBLIC)
    assert note.public_key(OTHER).name in str(told.value)
    assert PUBLIC.name in str(told.value)


def test_a_forged_signature():
    """
    Name and key ID are right, the signature is another key's: that is an attempt, and said so.
    """
    text, _, _ = made().partition("\n\n")
    signature = base64.b64encode(PUBLIC.id + OTHER.sign(f"{text}\n".encode())).decode()
    with pytest.raises(InputError, match="f, line 1: the signature is wrong"):
        read(f"{text}\n\n— {PUBLIC.name} {signature}\n", PUBLIC)


GOOD = made()
BODY, _, SIGNATURE = GOOD.partition("\n\n")
ORIGIN, SIZE, DIGEST = BODY.split("\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no checkpoint"),
        ("\n\n", "holds no checkpoint"),
        (GOOD[:-1], "line 5: is cut off"),
        (BODY + "\n", "line 1: 0 signatures"),
        (BODY + "\n\n", "line 1: 0 signatures"),
        (f"{GOOD}{BODY}\n\n", "line 6: 0 signatures"),
        (GOOD.replace("\n", "\r\n"), r"line 1: has the control character '\\r'"),
        (f"{ORIGIN}\n{SIZE}\n\n{SIGNATURE}", "2 lines; must be origin, size, hash"),
        (GOOD.replace("\n7\n", "\n07\n"), "line 2: size '07'"),
        (GOOD.replace("\n7\n", "\n0\n"), "line 2: size '0'"),
        (GOOD.replace("\n7\n", "\n-7\n"), "line 2: size '-7'"),
        (GOOD.replace("\n7\n", "\n٧\n"), "line 2: size '٧'"),
        (GOOD.replace("\n7\n", "\n" + "7" * 30 + "\n"), "line 2: size '777"),
        (GOOD.replace(DIGEST, DIGEST[:-4]), "line 3: hash"),
        (GOOD.replace(DIGEST, DIGEST + "AAAA"), "line 3: hash"),
        (GOOD.replace(DIGEST, DIGEST.replace("=", "")), "line 3: hash"),
        (GOOD.replace(DIGEST, DIGEST[:-2] + chr(ord(DIGEST[-2]) + 1) + "="), "line 3: hash"),
        (GOOD.replace(ORIGIN, "a b"), "line 1: origin 'a b'"),
        (GOOD.replace(ORIGIN, "a+b"), "line 1: origin"),
        (GOOD.replace(SIGNATURE, f"— {ORIGIN} AAAA\n"), "line 5: "),
        (GOOD.replace(SIGNATURE, f"— {ORIGIN} !\n"), "line 5: "),
        (BODY + "\n\n" + SIGNATURE * 65, "65 signatures; must be 1 to 64"),
        (GOOD + "and more\n", "line 6: 0 signatures"),
    ],
)
def test_what_is_no_checkpoint(text, said):
    """
    The line is named, and what must stand there.
    """
    with pytest.raises(InputError, match=said):
        note.parse(text.encode(), "f")


def test_octets_that_are_no_text():
    """
    The line of the first wrong octet is named.
    """
    with pytest.raises(InputError, match="line 2: is not UTF-8"):
        note.parse(b"a\n\xff\n", "f")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "name",
        "name+00000000",
        f"{PUBLIC}x",
        str(PUBLIC).replace("+", "-", 1),
        str(PUBLIC).replace(PUBLIC.id.hex(), "00000000"),
        str(PUBLIC).replace("log/", "log /"),
        f"{PUBLIC.name}+{PUBLIC.id.hex()}+{base64.b64encode(b'2' + PUBLIC.octets).decode()}",
        "PRIVATE+KEY+" + str(PUBLIC),
    ],
)
def test_what_is_no_public_key(line):
    """
    A line that is no Ed25519 key, or whose key ID is another's.
    """
    with pytest.raises(InputError):
        note.parse_keys(line.encode() + b"\n", "k")


@st.composite
def damaged(draw):
    """Two checkpoints with some octets replaced, taken out, put in or cut off."""
    data = bytearray((made(7) + made(8)).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 3)))
        data[at:until] = draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"\n\n", b"=", b"+"]))
    return bytes(data)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | damaged())
def test_no_file_breaks_the_reader_or_forges_a_checkpoint(data):
    """
    It is refused with our own error, or every checkpoint in it is word for word one that we signed.
    """
    try:
        notes = note.parse(data, "f")
        found = [note.opened(one, [PUBLIC]) for one in notes]
    except InputError:
        return
    assert found
    for one, checkpoint in zip(notes, found, strict=True):
        assert checkpoint.serial in (7, 8)
        assert one.text == made(checkpoint.serial).partition("\n\n")[0] + "\n"
