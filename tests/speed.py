"""
How slow this machine is, so that a claim about processor time holds on any.

A limit such as "20 µs" is meant for the machine that `benchmarks/record` names for 2026-11-29 (AMD
EPYC).  There the work below takes `REFERENCE_S`; a machine that takes five times as long may take
five times as long for what is measured, too.  A faster machine gets no stricter limit.
"""

import time
from typing import Final

REFERENCE_S: Final = (
    0.0045  # processor time of `_work`; benchmarks.scoring tells both machines apart
)


def _work() -> int:
    """Strings, a dictionary and small numbers: what most of our code is made of."""
    found = {}
    for number in range(20_000):
        name = f"name-{number}.example"
        found[name] = len(name) & 255
    return sum(found.values())


def slowness() -> float:
    """How many times as long as the reference this machine takes now; at least 1."""
    took = []
    for _ in range(5):
        began = time.thread_time()
        _work()
        took.append(time.thread_time() - began)
    return max(1.0, min(took) / REFERENCE_S)
