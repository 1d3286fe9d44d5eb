"""The keys of ``[api]`` that need more than one look."""

import pytest

from urlguard import config
from urlguard.errors import ConfigError


def parse(tmp_path, text):
    """A configuration with this ``[api]``."""
    file = tmp_path / "urlguard.toml"
    file.write_text(f"[api]\n{text}\n")
    return config.load(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tls_cert = 'a.pem'", "must have both tls_cert and tls_key"),
        ("tls_key = 'a.pem'", "must have both tls_cert and tls_key"),
        ("hosts = ['https://a.example']", "hosts"),
        ("hosts = ['a.example:8530']", "hosts"),
        ("proxy_from = ['proxy']", "must be a network"),
        ("connections = 0", "must be an integer from 1"),
    ],
)
def test_what_is_refused(tmp_path, text, problem):
    """
    The message names the key.
    """
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("listen = '192.0.2.1:8530'", "tokens travel unencrypted"),
        ("proxy_from = ['0.0.0.0/0']", "every client counts as a proxy"),
        ("tls_cert = 'a.pem'\ntls_key = 'missing.pem'", "missing.pem: not there"),
    ],
)
def test_what_is_hardly_meant(tmp_path, text, warning):
    """
    A warning says what happens, and is not given for the defaults.
    """
    found = config.warnings(parse(tmp_path, text))
    assert any(warning in one for one in found)
    assert not any("[api]" in one for one in config.warnings(parse(tmp_path, "")))


def test_a_warning_less(tmp_path):
    """
    With a certificate nothing travels in clear; a name may have dots and hyphens.
    """
    text = (
        "listen = '192.0.2.1:8530'\ntls_cert = 'a.pem'\ntls_key = 'b.pem'\n"
        "hosts = ['guard', 'dns-1.isp.example']"
    )
    found = parse(tmp_path, text)
    assert not any("unencrypted" in one for one in config.warnings(found))
    assert found.api.hosts == ("guard", "dns-1.isp.example")
