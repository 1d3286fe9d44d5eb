"""Sending webhooks: at least once, with patience, and nobody waits for a slow one."""

import asyncio
import json
from collections.abc import Mapping

import pytest

from tests.cases.conftest import NOW, candidate
from tests.cases.test_submissions import HOOK, decide, submit
from urlguard.cases import outbox
from urlguard.cases.outbox import Outbox
from urlguard.cases.threads import StoreThreads
from urlguard.cases.webhooks import DECIDED
from urlguard.errors import UrlGuardError
from urlguard.fetch import signing

SECRET = signing.new_secret()


class Receiver:
    """Takes messages, or does not."""

    def __init__(self):
        self.status = 200
        self.error = None
        self.wait_s = {}
        self.got = []
        self.most = self.now = 0

    sign = staticmethod(signing.sign)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.wait_s.get(url, 0))
        finally:
            self.now -= 1
        if self.error:
            raise self.error
        self.got.append((url, body, dict(headers)))
        return self.status


class Clock:
    """The time that a test wants."""

    def __init__(self):
        self.now = float(NOW + 10)

    def __call__(self):
        return self.now


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def sender(harness, receiver, clock):
    """An outbox on the harness's store."""
    threads = StoreThreads(lambda: harness.open())
    yield Outbox(threads, receiver, clock)
    await asyncio.to_thread(threads.close)


def news(harness, *names, hooks=(HOOK[0],)):
    """Submissions that are decided, and webhooks that are to be told."""
    for url in hooks:
        harness.store.add_webhook(url, (DECIDED,), SECRET, "admin", NOW)
    for name in names:
        submit(harness, name)
    harness.judge()
    for case in harness.store.cases().items:
        decide(harness, case.id)


async def look(sender):
    """Send all that is due now."""
    await sender.look()
    await sender.finish()


async def test_sent(harness, sender, receiver, clock):
    """
    Signed as the standard says, and once if it has arrived.
    """
    news(harness, "a.example", "b.example")
    await look(sender)
    await look(sender)
    assert [json.loads(body)["data"]["item"] for _, body, _ in receiver.got] == [
        "a.example",
        "b.example",
    ]
    url, body, headers = receiver.got[0]
    assert url == HOOK[0]
    assert signing.verify([SECRET], headers, body, clock.now)
    assert headers["content-type"] == "application/json"
    (told,) = harness.store.webhooks()
    assert (told.delivered, told.waiting, told.error) == (2, 0, None)


@pytest.mark.parametrize("problem", [500, 301, UrlGuardError("no address"), OSError(9)])
async def test_it_is_tried_again(harness, sender, receiver, clock, problem, capsys):
    """
    After a time that doubles, with the same ID; once told, not each time.
    """
    news(harness, "a.example")
    if isinstance(problem, int):
        receiver.status = problem
    else:
        receiver.error = problem
    for wait_s in (10, 20, 40):
        await look(sender)
        clock.now += wait_s - 0.5
        await look(sender)
        clock.now += 0.5
    assert harness.store.webhooks()[0].error in (
        *("status 500", "status 301", "no address"),
        "OSError(9)",
    )
    receiver.status, receiver.error = 200, None
    await look(sender)
    assert len({headers["webhook-id"] for _, _, headers in receiver.got}) == 1
    assert receiver.got[-1][2]["webhook-timestamp"] == str(int(clock.now))
    assert harness.store.webhooks()[0].delivered == 1
    assert capsys.readouterr().err.count("webhook.failed") == 1


async def test_it_is_given_up(harness, sender, receiver, clock, capsys):
    """
    After a day; at most three hours lie between two tries.
    """
    news(harness, "a.example")
    receiver.status = 500
    tries, before = 0, clock.now
    while harness.store.webhooks()[0].waiting:
        await look(sender)
        tries += 1
        clock.now += outbox.MOST_S
    assert outbox.KEPT_S <= clock.now - before <= outbox.KEPT_S + 3 * outbox.MOST_S
    assert tries == len(receiver.got)
    assert harness.store.webhooks()[0].given_up == 1
    assert "webhook.given_up" in capsys.readouterr().err


async def test_gone(harness, sender, receiver):
    """
    Status 410 ends it at once.
    """
    news(harness, "a.example")
    receiver.status = 410
    await look(sender)
    assert harness.store.webhooks()[0].given_up == 1


async def test_a_slow_one_keeps_nobody_waiting(harness, sender, receiver):
    """
    Each webhook is sent to by itself, and only a few at a time.
    """
    urls = [f"https://{n}.example/" for n in range(8)]
    news(harness, "a.example", "b.example", hooks=urls)
    receiver.wait_s = dict.fromkeys(urls[:2], 3600.0) | dict.fromkeys(urls[2:], 0.01)
    await sender.look()
    async with asyncio.timeout(5):
        while len(receiver.got) < 12:
            await asyncio.sleep(0.01)
            await sender.look()
    assert receiver.most <= outbox.AT_ONCE
    assert receiver.now == 2
    for task in sender._busy.values():
        task.cancel()
    await sender.finish()


async def test_a_crash_between_sending_and_writing_it_down(harness, sender, receiver, clock):
    """
    It is sent again, under the same ID.
    """
    news(harness, "a.example")
    receiver.wait_s = {HOOK[0]: 0.2}
    await sender.look()
    await asyncio.sleep(0.05)
    for task in sender._busy.values():
        task.cancel()
    await sender.finish()
    receiver.wait_s = {}
    await look(sender)
    assert len(receiver.got) == 1
    assert harness.store.webhooks()[0].delivered == 1


async def test_nothing_to_tell(harness, sender, receiver):
    """
    Where nobody wants to know, nothing is written down.
    """
    harness.store.add("crawler", [candidate("a.example")], NOW)
    news(harness, hooks=())
    await look(sender)
    assert receiver.got == []
