"""
A child process that must not outlive its parent: the kernel sees to it.

For the jobs that the control process starts, which read nothing from a pipe whose end they would
notice.  Linux only; elsewhere it does nothing, and such a job ends by itself a little later.
"""

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int | None) -> None:
    """Have this process killed when its parent dies; at once if it has died already."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
