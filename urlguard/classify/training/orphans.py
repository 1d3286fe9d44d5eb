"""
Processes that end when the one that started them does, however that one ended.
"""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """
    From now on this process ends when its parent does; does nothing in one that has no parent.

    For the initializer of a pool, and the first step of a process of `multiprocessing`: both wait
    for a pipe that they hold open themselves, and so would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
