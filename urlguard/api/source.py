"""
What the HTTP routes ask for: the protocol that the control process fulfils, and metrics as data.

Routes know HTTP and these types; they know neither workers nor the policy log.
"""

from typing import Any, NamedTuple, Protocol


class Family(NamedTuple):
    """
    A metric with its values.

    ``kind`` is counter, gauge or histogram.  A sample is its label values, as many as ``labels``,
    and a number; for a histogram, ``(cumulative counts, total)``, a count for each of ``bounds``
    and one more for all.
    """

    name: str
    kind: str
    words: str
    labels: tuple[str, ...]
    samples: list[tuple[tuple[str, ...], Any]]
    bounds: tuple[float, ...] = ()


class Source(Protocol):
    """Who knows how the server is."""

    async def families(self) -> list[Family]:
        """All metrics now, within about a second."""
        ...

    async def health(self) -> dict[str, Any]:
        """Whether anything answers: ``ok`` (bool), and what a person wants to read beside it."""
        ...

    async def readiness(self) -> dict[str, Any]:
        """Whether all is as it should be: ``ready`` (bool), ``why`` not, and so on."""
        ...
