"""
The exceptions that UrlGuard raises on purpose, one for each thing a catcher does.

A message says where, what was found and what is allowed, in that order, in lower case and without
a full stop.  Callers of libraries convert their errors into one of these, with ``from``.
"""


class UrlGuardError(Exception):
    """Base of all of them; the command line prints it without a traceback."""


class ConfigError(UrlGuardError):
    """The configuration is wrong: tell the operator and stop."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InputError(UrlGuardError, ValueError):
    """A name, URL or rule from outside is not one: report it beside the input and go on."""


class WireError(UrlGuardError):
    """A DNS message cannot be answered as asked: reply with ``rcode``, or drop it if None."""

    def __init__(self, message: str, rcode: int | None) -> None:
        super().__init__(message)
        self.rcode = rcode


class FeedError(UrlGuardError):
    """A feed could not be used: keep the last good copy."""


class PolicyError(UrlGuardError):
    """The policy log refuses a change, or is damaged."""


class SnapshotError(UrlGuardError):
    """A snapshot cannot be opened: keep the one in use."""


class ModelError(UrlGuardError):
    """A model cannot be used: keep the one in use, or do without."""
