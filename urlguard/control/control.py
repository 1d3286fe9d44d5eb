"""
The control process: writes the policy log, keeps workers up to date and serves the API.

This module starts the parts and stops them, prepares the first policy and watches the log:
`policy_push` brings workers up to date, `command_socket` answers commands, `feed_refresher`
refreshes feeds, `verdict_pool` and `fetch_pool` keep child processes, `checkpoints` signs the log,
`monitor` collects metrics and health.

The packet path never waits for anything here.
"""

import asyncio
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Hashable
from typing import Final

from urlguard import compile as compiling
from urlguard import events
from urlguard.access import tokens
from urlguard.blocklist import snapshot
from urlguard.cases.casework import Casework
from urlguard.cases.model import Limits
from urlguard.config import Config
from urlguard.control.case_addresses import CaseAddresses
from urlguard.control.case_ports import ControlPolicy, WebhookDelivery
from urlguard.control.checkpoints import Checkpoints
from urlguard.control.command_socket import CommandSocket
from urlguard.control.dry_runs import DryRuns
from urlguard.control.feed_refresher import FeedRefresher
from urlguard.control.fetch_pool import FetchPool
from urlguard.control.log_thread import LogThread
from urlguard.control.monitor import ControlState, Monitor
from urlguard.control.policy_push import PolicyPush
from urlguard.control.suspect_intake import SuspectIntake
from urlguard.control.verdict_pool import VerdictPool
from urlguard.control.worker_queries import WorkerQueries
from urlguard.control.workers import Workers
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.hitlog.files import HitLog
from urlguard.policy.location import log_location, open_log
from urlguard.processes import channel, child
from urlguard.publish.rpz import primary

LOG_EVERY_S: Final = 60.0  # for the same trouble with the log
POLL_S: Final = 0.25  # between two looks for other processes' commits and for expired claims
UNUSABLE_S: Final = 1.0  # before the process ends, if the log cannot be opened
API_AFTER_S: Final = 2.0  # the API's imports wait for the first policy, but no longer than this


class Control:
    """
    The parts of the control process.

    Raises:
        PolicyError: the log cannot be opened, or is not the one of the snapshots.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._snapshots = config.state_dir / "snapshots"
        location = log_location(config)
        compiling.refuse_a_new_log(location, self._snapshots)
        self._log = LogThread(open_log(config))
        self._state = ControlState()
        self._first_policy_done = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        count = config.server.workers
        self._workers = Workers()
        self._queries = WorkerQueries(self._workers, count)
        self._push = PolicyPush(
            location, self._snapshots, self._log, self._workers, count, self._state
        )
        self._feeds = FeedRefresher(config, self._log)
        self._hits = HitLog(
            config.state_dir,
            config.hits,
            keyed=config.dnstap.socket is not None,
            changed=self._workers.send,
        )
        self._checkpoints = Checkpoints(config)
        self._verdicts = VerdictPool(config)
        self._fetches = FetchPool(config)
        self._policy = ControlPolicy(self._push, self._log, self._queries)
        self._casework = Casework(
            config.state_dir,
            verdicts=self._verdicts,
            policy=self._policy,
            delivery=WebhookDelivery(self._fetches),
            limits=Limits(backlog=config.cases.backlog),
        )
        self._socket = CommandSocket(
            channel.socket_path(config.state_dir),
            workers=self._workers,
            queries=self._queries,
            push=self._push,
            log=self._log,
            hits=self._hits,
            state=self._state,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        server = await self._socket.listen()
        rpz = await primary.start(self._config)
        if rpz is not None:
            self._push.on_push = rpz.changed
        addresses = CaseAddresses(self._config, self._fetches, self._casework)
        suspects = SuspectIntake(self._workers, self._verdicts, self._casework)
        async with server:
            self._tasks = [
                asyncio.create_task(self._first_policy()),
                asyncio.create_task(self._watch_log()),
                asyncio.create_task(self._hits.run()),
                asyncio.create_task(self._checkpoints.run()),
                asyncio.create_task(self._verdicts.run()),
                asyncio.create_task(self._fetches.run()),
                asyncio.create_task(self._casework.run()),
                asyncio.create_task(suspects.run()),
                asyncio.create_task(addresses.run()),
                asyncio.create_task(self._serve_api()),
                asyncio.create_task(asyncio.to_thread(tokens.first_start, self._config.state_dir)),
            ]
            child.report_ready()
            await stop.wait()
        ending = self._push.stop()  # first: no compile begins while the rest ends
        if rpz is not None:
            await rpz.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait([*self._tasks, *ending, *self._socket.close()], timeout=2)
        await self._checkpoints.finish()
        self._log.close()

    async def _first_policy(self) -> None:
        """
        Prepare the policy: a snapshot of this log, and feeds that were never imported.

        Only a start without any policy waits for its feeds.  Feeds that are no longer configured
        are withdrawn after their successors have been imported.
        """
        try:
            await self._push.replace_foreign()
            if await self._feeds.nothing_imported():
                await self._feeds.import_new()
                await self._push.compile()
            elif not self._push.has_snapshot():
                await self._push.compile()
        except UrlGuardError as exc:
            events.error("policy.first", error=str(exc), using="what there is")
        self._state.ready = True
        self._first_policy_done.set()
        os.nice(5)  # from now on, answering queries comes first
        try:
            await self._push.push()
            await self._feeds.import_new()
            await self._feeds.withdraw_unconfigured()
            await self._push.push()
        except UrlGuardError as exc:
            events.error("policy.first", error=str(exc), using="what there is")
        for feed in self._feeds.feeds:
            if feed.refresh_s:
                fresh = self._feeds.keep_fresh(feed, self._push.push)
                self._tasks.append(asyncio.create_task(fresh))

    async def _watch_log(self) -> None:
        """Expire claims that are due, and push what other processes have committed."""
        store = self._log.log.store
        token: Hashable = None
        newest = None
        throttle = events.Throttle(LOG_EVERY_S)
        while True:
            try:
                await self._log.run(store.check_identity)
                expired = await self._log.run(self._expire)
                found_token = await self._log.run(store.change_token)
                found = snapshot.newest(self._snapshots)[:1]
                if expired or found_token != token or found != newest:
                    token, newest = found_token, found
                    await self._push.push()
            except Exception as exc:  # whatever it is, the next look may succeed
                if throttle.due():
                    error = str(exc) if isinstance(exc, UrlGuardError) else repr(exc)
                    events.error("policy.watch", error=error, using="last_good")
            await asyncio.sleep(POLL_S)

    def _expire(self) -> int:
        due = self._log.log.store.next_expiry()
        if due is None or due > time.time():
            return 0
        return len(self._log.log.expire())

    async def _serve_api(self) -> None:
        """Serve ``[api]``; its errors must not stop the rest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_policy_done.wait(), API_AFTER_S)
        monitor = Monitor(
            self._config, self._workers, self._log.log, self._log.run, self._current_state
        )
        try:
            # In a thread: the import takes a good part of a second, and decisions go on meanwhile.
            server = await asyncio.to_thread(importlib.import_module, "urlguard.api.server")
            api = server.of(
                self._config,
                monitor,
                deciding=self._policy.commit,
                judging=self._verdicts,
                casework=self._casework,
                previewing=DryRuns(self._config, self._queries.sample),
                proving=self._fetches,
            )
            await api.run()
        except Exception as exc:
            events.error("api.unavailable", address=str(self._config.api.listen), error=repr(exc))
        finally:
            await monitor.close()

    def _current_state(self) -> ControlState:
        self._state.hit_rows = self._hits.written
        self._state.hits_dropped = self._hits.dropped
        self._state.waiting = self._casework.waiting
        return self._state


def main() -> None:
    """Entry point of the control process."""
    config: Config = child.read_startup()
    events.bind(role="control")
    child.request_short_time_slice()
    try:
        control = Control(config)
    except PolicyError as exc:
        # The supervisor restarts it; meanwhile workers use the policy that they have.
        events.error("policy.unusable", error=str(exc), using="last_good")
        time.sleep(UNUSABLE_S)
        sys.exit(1)
    child.main_loop(control.run)


if __name__ == "__main__":
    main()
