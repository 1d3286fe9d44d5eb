"""
Child processes that must not outlive their parent, however it ended.

`die_with_parent` is for the jobs that the control process starts, which read no pipe whose end they
would notice: the kernel kills them.  Linux only; elsewhere it does nothing, and such a job ends by
itself a little later.  `watch_parent` is for children of `multiprocessing`.
"""

import contextlib
import ctypes
import os
import signal
import threading

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def watch_parent() -> None:
    """
    Start a thread that ends this process when its parent ends; none in a process without a parent.

    For the initializer of a pool, and the first step of a process of `multiprocessing`: both wait
    for a pipe that they hold open themselves, so they would never notice.
    """
    # Only training starts such children; other processes need not pay for the import.
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
