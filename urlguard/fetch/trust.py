"""Trusted authorities, read at once: later the process may not open files."""

import re
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

from urlguard.errors import ConfigError

_hashed: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+").fullmatch  # as c_rehash of OpenSSL names them


def context(ca_file: Path | None) -> ssl.SSLContext:
    """
    TLS 1.2 or later, the certificate's name and its issuer checked.

    OpenSSL reads the system's folder of authorities only when a certificate needs one of them, so
    they are read here.

    Args:
        ca_file: certificates of the only trusted authorities, in PEM; None: the system's.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        made = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl's own errors derive from it
        raise ConfigError(
            [f"{ca_file}: {exc.strerror or exc}; must hold certificates in PEM"]
        ) from exc
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    folder = ssl.get_default_verify_paths().capath
    if ca_file is None and folder is not None:
        with suppress(OSError):  # a folder that cannot be listed counts as empty
            for file in sorted(Path(folder).iterdir()):
                if _hashed(file.name):
                    with suppress(OSError):  # a broken link
                        made.load_verify_locations(cafile=file)
    return made
