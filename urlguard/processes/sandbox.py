"""
A sandbox for processes that handle data from third-party servers.

Knows nothing of what the process does.  Linux only.  Elsewhere, and where the kernel or a filter of
system calls refuses, the process keeps what it cannot give up: the sandbox is a second line of
defence, and no check relies on it.

How it works.  Memory, descriptors, files and processes are limited by rlimits.  A Landlock ruleset
(Linux 5.13) without any rule denies the file system: no file can be opened, made or removed any
more, whoever owns it, so a compromised process cannot read the policy, keys or tokens.  Newer
kernels also deny listening on TCP ports and signalling other processes.  Open descriptors stay
usable.
"""

import contextlib
import ctypes
import os
import resource
import struct
from typing import Final

MEMORY: Final = 1 << 30  # octets of address space
DESCRIPTORS: Final = 256

_PR_SET_NO_NEW_PRIVS: Final = 38  # prctl(2)
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same on all architectures, landlock(7)
_ASK_VERSION: Final = 1
# Kinds of access to files by the version of Landlock: those of 1, then refer, truncate, ioctl.
_FILES: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_BIND_TCP: Final = 1  # from version 4
_SIGNALS_AND_SOCKETS: Final = 3  # to others' processes and abstract sockets, from version 6


def enter(niceness: int) -> bool:
    """
    Enter the sandbox, irrevocably.

    Everything that will be needed must be imported and read before.

    Args:
        niceness: of this process from now on, unless it is higher already.

    Returns:
        True if the kernel denies access to the file system.
    """
    os.umask(0o077)
    os.chdir("/")
    with contextlib.suppress(OSError):
        os.nice(max(0, niceness - os.nice(0)))
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)  # a core dump would hold what it was sent
    _limit(resource.RLIMIT_NPROC, 0)  # it starts nothing; root is not bound by this
    try:
        return _landlock(ctypes.CDLL(None, use_errno=True))
    except (OSError, AttributeError):
        return False


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(what, (most, most))


def _landlock(libc: ctypes.CDLL) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < 1:
        return False
    files = max(mask for since, mask in _FILES.items() if since <= version)
    attributes = struct.pack(
        "=QQQ", files, _BIND_TCP * (version >= 4), _SIGNALS_AND_SOCKETS * (version >= 6)
    )
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    rules = libc.syscall(_CREATE_RULESET, attributes, size, 0)
    if rules < 0:
        return False
    try:
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            return False
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)
