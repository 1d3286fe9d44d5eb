"""Signatures of webhooks, against the vector that Standard Webhooks' own libraries test with."""

import base64

import pytest

from urlguard.errors import InputError
from urlguard.fetch import signing

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_vector():
    """
    The headers of the published example.
    """
    assert signing.sign([SECRET], MESSAGE, TIME, BODY) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": str(TIME),
        "webhook-signature": SIGNATURE,
    }


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"webhook-signature": f"v1,AAAA {SIGNATURE}"}, True),
        ({"webhook-signature": f"v1a,AAAA {SIGNATURE} v2,x"}, True),
        ({"other": "x"}, True),
        ({"webhook-signature": SIGNATURE.replace("v1,", "v2,")}, False),
        ({"webhook-signature": SIGNATURE[3:]}, False),
        ({"webhook-signature": SIGNATURE[:-1]}, False),
        ({"webhook-signature": ""}, False),
        ({"webhook-signature": "v1,\u2603"}, False),
        ({"webhook-id": "msg_another"}, False),
        ({"webhook-id": ""}, False),
        ({"webhook-id": f"{MESSAGE}.1"}, False),
        ({"webhook-timestamp": str(TIME + 1)}, False),
        ({"webhook-timestamp": f"+{TIME}"}, False),
        ({"webhook-timestamp": f"{TIME}.0"}, False),
        ({"webhook-timestamp": ""}, False),
        ({"webhook-timestamp": "9" * 400}, False),
    ],
)
def test_what_is_believed(change, good):
    """
    One signature of several is enough; each header counts; nothing from outside raises.
    """
    headers = {**signing.sign([SECRET], MESSAGE, TIME, BODY), **change}
    assert signing.verify([SECRET], headers, BODY, TIME) is good
    assert not signing.verify([SECRET], headers, BODY + b" ", TIME)
    assert not signing.verify([signing.new_secret()], headers, BODY, TIME)


@pytest.mark.parametrize(("late_s", "good"), [(0, True), (300, True), (-300, True)])
def test_at_its_time(late_s, good):
    """
    A message holds for five minutes, either way, and not longer.
    """
    headers = signing.sign([SECRET], MESSAGE, TIME, BODY)
    assert signing.verify([SECRET], headers, BODY, TIME + late_s) is good
    further = late_s + (1 if late_s > 0 else -1)
    assert signing.verify([SECRET], headers, BODY, TIME + further) is (late_s == 0)


def test_two_secrets():
    """
    While a secret is replaced, whoever knows one of them can verify, on either side.
    """
    old, new = signing.new_secret(), signing.new_secret()
    headers = signing.sign([new, old], MESSAGE, TIME, BODY)
    assert signing.verify([old], headers, BODY, TIME)
    assert signing.verify([new], headers, BODY, TIME)
    headers = signing.sign([old], MESSAGE, TIME, BODY)
    assert signing.verify([new, old], headers, BODY, TIME)
    assert not signing.verify([], headers, BODY, TIME)


def test_new_secrets():
    """
    A new secret has 32 octets that nobody had before.
    """
    made = {signing.new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize(
    ("secret", "wrong"),
    [
        ("", "no whsec_"),
        (SECRET.removeprefix("whsec_"), "no whsec_"),
        ("whsec_%%%", "not base64"),
        ("whsec_\u2603", "not base64"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "23 octets"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "65 octets"),
    ],
)
def test_what_is_no_secret(secret, wrong):
    """
    A secret that is none is refused without being told.
    """
    with pytest.raises(InputError, match=wrong) as caught:
        signing.sign([secret], MESSAGE, TIME, BODY)
    assert caught.value.__cause__ is None
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "a\n", "\u2603", "x" * 256])
def test_what_is_no_id(message_id):
    """
    An ID with a dot could be read as another message's, so it is refused, like what no header has.
    """
    with pytest.raises(InputError, match="webhook-id"):
        signing.sign([SECRET], message_id, TIME, BODY)
    with pytest.raises(InputError, match="no secret"):
        signing.sign([], MESSAGE, TIME, BODY)
