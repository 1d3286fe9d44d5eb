"""Fifty analysts in eight processes on one store: no case to two, none decided twice."""

import multiprocessing
import sys
import threading
from collections import Counter

import pytest

from tests.cases.conftest import DRIVERS, NOW, StoreHarness
from urlguard.cases.model import Choice, ConflictError

CASES, PROCESSES, THREADS = 5000, 8, 50


def analysts(driver, folder, who, threads, out):
    """Some analysts of one process, until nothing is left to claim."""
    store = DRIVERS[driver](folder)
    claimed, decided, refused = [], [], []

    def work(name):
        for turn in range(10**6):
            mine = store.lease(name, 10, 600, NOW)
            if not mine:
                return
            claimed.extend(case.id for case in mine)
            for case in mine:
                made = store.begin([case.id], name, Choice("dismiss"), NOW, key=str(case.id))
                # Somebody always tries what is not his.
                try:
                    store.begin([case.id], "thief", Choice("block"), NOW)
                except ConflictError:
                    refused.append(case.id)
                store.finish(made.number, made.number, NOW)
                decided.append((case.id, made.number))
            if turn % 5 == 0:
                store.tidy(NOW)

    crowd = [threading.Thread(target=work, args=(f"{who}-{n}",)) for n in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    store.close()
    out.put((claimed, decided, refused))


@pytest.mark.slow
@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_nothing_twice(tmp_path, driver):
    """
    Every case is handed out once and decided once, and who has it not is refused each time.
    """
    harness = StoreHarness(DRIVERS[driver], tmp_path)
    harness.bring(*(f"n{n}.example" for n in range(CASES)))
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    shares = [THREADS // PROCESSES + (n < THREADS % PROCESSES) for n in range(PROCESSES)]
    crowd = [
        context.Process(target=analysts, args=(driver, tmp_path, f"p{n}", share, out))
        for n, share in enumerate(shares)
    ]
    for process in crowd:
        process.start()
    found = [out.get(timeout=240) for _ in crowd]
    for process in crowd:
        process.join(30)
        assert process.exitcode == 0, sys.executable
    claimed, decided, refused = ([x for part in found for x in part[n]] for n in range(3))
    assert Counter(claimed) == dict.fromkeys(range(1, CASES + 1), 1)
    assert sorted(case for case, _ in decided) == list(range(1, CASES + 1))
    assert sorted(refused) == sorted(claimed)
    made = [d for n in range(1, CASES + 1) for d in harness.store.case(n).decisions]
    assert sorted(d.number for d in made) == sorted(number for _, number in decided)
    assert harness.store.source("crawler").wrong == CASES
    assert harness.store.cases(state="open").items == []
    harness.store.close()
