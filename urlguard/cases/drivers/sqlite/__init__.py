"""
Cases in one SQLite file: `connection` the file and its tables, `intake` candidates, `triage` the
queue and what comes of it, `decisions` decisions, `lists` what is read, `addresses`, `appeals`,
`submissions` and `webhooks` as they are called.
"""

from pathlib import Path

from urlguard.cases.drivers.sqlite.addresses import Addresses
from urlguard.cases.drivers.sqlite.appeals import Appeals
from urlguard.cases.drivers.sqlite.decisions import Decisions
from urlguard.cases.drivers.sqlite.lists import Lists
from urlguard.cases.drivers.sqlite.submissions import Submissions
from urlguard.cases.drivers.sqlite.triage import TriageQueue
from urlguard.cases.drivers.sqlite.webhooks import Webhooks
from urlguard.cases.model import Limits
from urlguard.cases.store import Store


class SqliteStore(Submissions, TriageQueue, Decisions, Lists, Addresses, Appeals, Webhooks):
    """`urlguard.cases.store.Store` in SQLite; see `Connection` for how it is opened."""


def open_store(path: Path, limits: Limits | None = None) -> Store:
    """
    The store in a file, which is made if it is not there.

    Raises:
        StoreError: it cannot be opened, is no store of cases, or is of a newer version.
    """
    return SqliteStore(path, limits)
