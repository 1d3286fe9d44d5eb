"""Processes that compute give way to those that answer."""

import os
import platform
import subprocess
import sys

import pytest

from urlguard.processes import child

LOOK = """
import ctypes, os, struct, sys
from urlguard.processes import child as process
os.nice(5)
process.request_short_time_slice()
def turn(pid):
    buffer = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[sys.argv[1]]
    ctypes.CDLL(None).syscall(number, pid, buffer, 48, 0)
    return struct.unpack("=IIQiIQQQ", buffer.raw)[5]
child = os.fork()
if not child:
    print(turn(0), os.nice(0), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(turn(0), os.nice(0))
"""


def kernel():
    """The kernel's version."""
    return tuple(int(part) for part in platform.release().split(".")[:2])


@pytest.mark.skipif(
    kernel() < (6, 12) or platform.machine() not in child._SCHED_SETATTR,
    reason="the kernel has no turns of one's own",
)
def test_turns_are_short_and_inherited():
    """
    A tenth of a millisecond, also of children; the nice value stays.
    """
    command = [sys.executable, "-c", LOOK, platform.machine()]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert lines[:2] == [f"{int(child.TIME_SLICE_S * 1e9)} {os.nice(0) + 5}"] * 2


def test_elsewhere_nothing_happens(monkeypatch):
    """
    A machine whose system call is not known is left as it is.
    """
    monkeypatch.setattr(platform, "machine", lambda: "other")
    child.request_short_time_slice()
