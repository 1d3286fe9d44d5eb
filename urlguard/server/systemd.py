"""
systemd: notifications while the server runs, and the unit that starts it.

The protocol is that of sd_notify(3): a datagram of lines to the socket in ``NOTIFY_SOCKET``.  Knows
nothing of processes and queries.  Without systemd nothing is sent.
"""

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from urlguard.config import Config
from urlguard.errors import ConfigError
from urlguard.policy.location import log_location
from urlguard.server.sockets import descriptors

_SEND_S = 1.0  # timeout; systemd reads its socket at once
_MAX_STATUS = 300  # characters

START_S: Final = 900  # the first start imports the lists before it answers
STOP_S: Final = 20
WATCHDOG_S: Final = 30


class Notifier:
    """
    Sends notifications to the service manager, if there is one.

    Args:
        environment: ``NOTIFY_SOCKET`` is a path or, after ``@``, an abstract name;
            ``WATCHDOG_USEC`` counts if ``WATCHDOG_PID`` is this process or absent.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog_s: float | None = None  # `heartbeat` is due within this time
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if mine and re.fullmatch(r"[0-9]{1,18}", usec):
            self.watchdog_s = int(usec) / 1e6 or None

    def ready(self, status: str) -> None:
        """The server has started, or has finished `reloading`."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(_status(text))

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={usec}", _status("reloading"))

    def stopping(self) -> None:
        """The server is shutting down."""
        self._send("STOPPING=1", _status("stopping"))

    def heartbeat(self) -> None:
        """Feed the watchdog: without it systemd kills and restarts the service in time."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.settimeout(_SEND_S)
            sock.connect(self._address)
            sock.send("\n".join(lines).encode())


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:_MAX_STATUS]}"


def unit(config: Config, user: str = "urlguard") -> str:
    """
    The text of a unit that runs this installation with this configuration, sandboxed.

    Args:
        config: read from a file, which the unit names.
        user: the system user of the service.

    Raises:
        ConfigError: the configuration has no file, or a path or the user's name is not valid in a
            unit.
    """
    if config.path is None:
        raise ConfigError(
            ["the defaults, without a file: a unit must name a configuration; give --config FILE"]
        )
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", user):
        raise ConfigError(
            [f"--user {user!r}: must be a user's name: letters, digits, _ and -, at most 31"]
        )
    files = _read(config)
    python = Path(sys.executable)
    urlguard = f"{_word(python)} -m urlguard"
    file = _word(config.path)
    written = [config.state_dir]
    written += [
        folder
        for folder in log_location(config).folders()
        if not folder.is_relative_to(config.state_dir)
    ]
    seen = [python, Path(sys.prefix), Path(sys.base_prefix), *files, *written]
    home = any(_is_below(path, "/home", "/root", "/run/user") for path in seen)
    temporary = any(_is_below(path, "/tmp", "/var/tmp") for path in seen)  # noqa: S108
    return _UNIT.format(
        user=user,
        check=f"{urlguard} check-config --config {file}",
        serve=f"{urlguard} serve --config {file}",
        start_s=START_S,
        stop_s=STOP_S,
        watchdog_s=WATCHDOG_S,
        folders="\n".join(_folders(written)),
        home="read-only" if home else "yes",
        temporary="no" if temporary else "yes",
        descriptors=max(65_536, 2 * descriptors(config)),
    )


def _read(config: Config) -> list[Path]:
    """The files that the configuration names, and itself."""
    named = [
        config.path,
        config.api.metrics_token_file,
        config.forward.ca_file,
        config.dnstap.socket,
        *(feed.path for feed in config.feed),
        *(key.secret_file for key in config.rpz.tsig),
    ]
    return [path for path in named if path is not None]


def _folders(written: list[Path]) -> list[str]:
    """Directives that make folders writable; systemd creates those below /var/lib."""
    lines = []
    for folder in written:
        below = folder.relative_to("/var/lib") if _is_below(folder, "/var/lib") else None
        if below is not None and below.parts and not re.search(r"[\s:]", str(below)):
            lines.append(f"StateDirectory={_escaped(str(below))}")
        else:
            lines.append(f"ReadWritePaths={_word(folder)}")
    if any(line.startswith("State") for line in lines):
        lines.append("StateDirectoryMode=0750")
    return lines


def _is_below(path: Path, *roots: str) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _escaped(text: str) -> str:
    if not text.isprintable():
        raise ConfigError([f"{text!r}: a path in a unit must have printable characters only"])
    return text.replace("%", "%%")  # a specifier


def _word(path: Path) -> str:
    """A path as one word of a unit's line."""
    text = _escaped(str(path.absolute()))
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return text
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{inner}"'


# As strict as the server permits; the tests run it under this unit.  Needs systemd 247.
_UNIT = """\
# Made by "urlguard systemd"; put changes into a drop-in: systemctl edit urlguard
[Unit]
Description=UrlGuard DNS resolver
Wants=network-online.target nss-lookup.target
After=network-online.target
Before=nss-lookup.target
# Restart a resolver for ever: its address may come up late.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
ExecStart={serve}
# A bad configuration fails the reload and is never tried.  notify-reload would not run the check,
# and needs systemd 253.
ExecReload={check}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
# The supervisor restarts single processes; one that is out of memory must not end the others.
OOMPolicy=continue
KillMode=mixed
TimeoutStartSec={start_s}
TimeoutStopSec={stop_s}
WatchdogSec={watchdog_s}
LimitNOFILE={descriptors}
# A core dump would show who asked for what.
LimitCORE=0
UMask=0077
# No modules from the current folder; no attempts to write into the installation.
Environment=PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1

# Port 53 without root.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes

# Files
ProtectSystem=strict
{folders}
ProtectHome={home}
PrivateTmp={temporary}
PrivateMounts=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectProc=invisible
ProcSubset=pid

# Kernel
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# Refreshes and compiles make themselves nice.
SystemCallFilter=setpriority
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
