"""
Child processes that must not outlive their parent, however it ended.

`end_with` is for the jobs that the control process starts, which read nothing from a pipe whose end
they would notice: the kernel kills them.  Linux only; elsewhere it does nothing, and such a job
ends by itself a little later.  `end_with_parent` is for children of `multiprocessing`.
"""

import contextlib
import ctypes
import os
import signal
import threading

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int | None) -> None:
    """Have this process killed when its parent dies; at once if it has died already."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def end_with_parent() -> None:
    """
    From now on this process ends when its parent does; does nothing in one that has no parent.

    For the initializer of a pool, and the first step of a process of `multiprocessing`: both wait
    for a pipe that they hold open themselves, and so would wait for ever.
    """
    # Only training starts such children; nobody else shall pay for the import.
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
