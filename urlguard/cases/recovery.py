"""
After a crash: decisions that were on their way, finished or taken back.

Knows the store, and of the policy log only what a callable tells.  Called at a start, before
anybody decides, and again when the store could not be written for a while.

How it works.  Between the log's commit and the store's word of it a process may die.  The log says
what happened: a claim that the decision made carries `Decision.evidence`.  Where it stands, the
decision was made; where it does not, it was not, or was undone.  What needs no claim, to watch and
to dismiss, was decided when it began.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from urlguard.cases.model import Act, Decision, Step
from urlguard.cases.store import Store

# The serial from which the claim about a case of a decision stands; None if there is none.
Standing = Callable[[Decision, int], int | None]

_LOST = "the server ended before the policy log had it"


class Recovered(NamedTuple):
    """How many decisions, or undoings of such, came to which end."""

    finished: int
    aborted: int


def recover(store: Store, left: Sequence[Decision], standing: Standing, now: int) -> Recovered:
    """
    Bring unfinished decisions to their end.

    Args:
        store: of the cases.
        left: of `Store.unfinished`, those that nobody is about to finish.
        standing: asks the policy log.
        now: the time.

    Raises:
        StoreError: the store cannot be used; what is left is done at the next call.
    """
    finished = aborted = 0
    for made in left:
        claims = made.choice.act in (Act.BLOCK, Act.ALLOW)
        about = made.cases or (0,)
        serials = [standing(made, case) for case in about] if claims else []
        # One batch makes them all, and one undoes them all.
        serial = next((serial for serial in serials if serial is not None), None)
        undoing = made.step == Step.UNDOING
        if claims and (serial is not None) == undoing:
            store.abort(made.number, _LOST, now)
            aborted += 1
        else:
            store.finish(made.number, serial, now)
            finished += 1
    return Recovered(finished, aborted)
