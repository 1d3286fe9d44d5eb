"""
What all routes about cases have in common: reaching the store, and its errors as problems.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from urlguard.access.roles import Role
from urlguard.access.tokens import Holder
from urlguard.api.problems import Problem
from urlguard.api.services import Services
from urlguard.cases.casework import Casework
from urlguard.cases.decide import Decider, Person
from urlguard.cases.model import ConflictError, FullError, MissingError, StoreError
from urlguard.cases.store import Store
from urlguard.errors import InputError, PolicyError
from urlguard.rules import OPERATOR

ANALYST = "analyst:"
RETRY_S = 5.0  # after the store or the log could not be used

T = TypeVar("T")


def source_of(holder: Holder) -> str:
    """The source under which the holder of a token makes claims."""
    return OPERATOR if holder.role is Role.ADMIN else f"{ANALYST}{holder.name}"


def person(holder: Holder) -> Person:
    """The holder of a token as one who decides."""
    return Person(holder.name, source_of(holder))


def casework(services: Services) -> Casework:
    """
    The cases.

    Raises:
        Problem: they are not there yet.
    """
    if services.casework is None:
        raise Problem("unavailable", "there are no cases yet", retry_after_s=1)
    return services.casework


def decider(services: Services) -> Decider:
    """
    Who makes decisions.

    Raises:
        Problem: nobody can yet.
    """
    try:
        return casework(services).decider
    except StoreError as exc:
        raise Problem("unavailable", str(exc), retry_after_s=RETRY_S) from exc


async def told(work: Awaitable[T]) -> T:
    """
    What comes of `work`; the errors of cases and of the log become problems.

    Raises:
        Problem: nothing was applied.
    """
    try:
        return await work
    except MissingError as exc:
        raise Problem("not-found", str(exc)) from None
    except ConflictError as exc:
        raise Problem("conflict", str(exc)) from None
    except FullError as exc:
        raise Problem("rate", str(exc), retry_after_s=exc.wait_s) from None
    except (StoreError, PolicyError) as exc:
        raise Problem("unavailable", str(exc), retry_after_s=RETRY_S) from exc
    except InputError as exc:
        words = str(exc)
        field = words.partition(":")[0].partition(" ")[0]
        raise Problem("invalid", words, errors=[(field, words)]) from None


async def stored(services: Services, work: Callable[[Store], T], *, bulk: bool = False) -> T:
    """
    What `work` makes of the store.

    Raises:
        Problem: see `told`.
    """
    return await told(casework(services).store(work, bulk=bulk))
