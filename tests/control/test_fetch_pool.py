"""The fetch process: a real child connects to servers on loopback, dies, hangs and idles."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dns.rcode
import pytest

from tests.fetch.world import Names, Site, answer, drip, on_loopback
from tests.plugins.forward_upstreams import Authority
from urlguard import config, events
from urlguard.control import fetch_pool, fetch_process
from urlguard.control.fetch_pool import FetchBusyError, FetchPool
from urlguard.fetch.bounds import LOOKUP_S, MAX_PROOF, MAX_SENT, Bounds, Fetched, FetchError
from urlguard.processes import child_pool, sandbox

ROOT = Path(__file__).parents[2]
PROOF = b"urlguard-proof=abc\n"
BOTH = ("shop.example", "hook.example")
ZONE = {
    **{(name, "A"): ["127.1.0.1"] for name in BOTH},
    ("inside.example", "A"): ["127.0.0.1"],
    ("_urlguard.shop.example", "TXT"): ['"urlguard-proof=abc"'],
}


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """Events, and a path for the child to the tests' own rules."""
    found = []
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(events, "error", lambda event, **keys: found.append((event, keys)))
    return found


@contextlib.asynccontextmanager
async def running(names, authority, https=0, http=0, total_s=5.0, **options):
    """A fetch pool at work, whose upstream is `names`."""
    made = config.parse({"forward": {"upstreams": [f"127.0.0.1:{names.port}"]}}, ROOT / "x.toml")
    rules = Bounds(on_loopback, authority.file, http, https, total_s)
    found = FetchPool(made, bounds=rules, **options)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert found.pid is None


async def until(condition, seconds=20.0):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def gone(pid):
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_the_four_jobs(authority, said):
    """
    A webhook, a proof file, a TXT record and addresses, by one child that is started when it is
    needed.
    """
    context = authority.server("hook.example")
    async with (
        Names(ZONE) as names,
        Site(answer(b"thanks"), context) as hook,
        Site(answer(PROOF)) as shop,
        running(names, authority, https=hook.port, http=shop.port) as found,
    ):
        await asyncio.sleep(0.1)
        assert found.pid is None
        url = f"https://hook.example:{hook.port}/a"
        body = os.urandom(MAX_SENT)
        sent = await found.post_webhook(url, body, {"webhook-id": "msg_1"})
        assert sent == Fetched(200, b"thanks", "https")
        assert hook.requests[0][1] == body
        assert "webhook-id: msg_1\r\n" in hook.requests[0][0]
        first = found.pid
        assert await found.proof_file("shop.example") == Fetched(200, PROOF, "http")
        assert await found.txt("shop.example") == ["urlguard-proof=abc"]
        assert await found.txt("none.example") == []
        shop.behave = answer(os.urandom(MAX_PROOF))
        assert (await found.proof_file("shop.example")).body == shop.behave[-MAX_PROOF:]
        assert await found.addresses(["shop.example", "inside.example", "none.example"]) == {
            "shop.example": ["127.1.0.1"],
            "inside.example": [],
            "none.example": [],
        }
        assert found.pid == first
        # All names were asked of the upstream that the configuration has, and nobody else.
        assert {name for name, _, _ in names.asked} >= {*BOTH, "_urlguard.shop.example"}
    assert said == []


async def test_what_is_refused(authority):
    """
    The child keeps the rules: no address inside, no HTTP for webhooks, nothing but a domain.
    """
    async with Names(ZONE) as names, running(names, authority) as found:
        for job in (
            found.post_webhook("https://inside.example/", b"", {}),
            found.post_webhook("http://hook.example/", b"", {}),
            found.post_webhook("https://127.1.0.1/", b"", {}),
            found.post_webhook("https://hook.example/", b"", {"Host": "x"}),
            found.post_webhook("https://hook.example/", bytes(MAX_SENT + 1), {}),
            found.post_webhook("https://hook.example/", bytes(4 * MAX_SENT), {}),
            found.proof_file("inside.example"),
            found.proof_file("127.0.0.1"),
            found.txt("127.0.0.1"),
        ):
            with pytest.raises(FetchError) as caught:
                await job
            assert caught.value.refused, str(caught.value)


async def test_a_server_knows_no_other_rules(authority):
    """
    As control makes it, loopback is out of reach, whatever an upstream says.
    """
    async with Names(ZONE) as names:
        made = config.parse({"forward": {"upstreams": [f"127.0.0.1:{names.port}"]}}, ROOT / "x")
        found = FetchPool(made)
        task = asyncio.create_task(found.run())
        with pytest.raises(FetchError, match=r"leads to 127\.1\.0\.1; must lead to public"):
            await found.post_webhook("https://hook.example/", b"", {})
        with pytest.raises(FetchError, match=r"leads to 127\.1\.0\.1; must lead to public"):
            await found.proof_file("shop.example")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_there_is_no_fifth_job(authority):
    """
    A job of no kind is refused, and one without its keys fails; the child goes on.
    """
    async with Names(ZONE) as names, running(names, authority) as found:
        for what, head, refused in ((0, {}, True), (5, {"url": "x"}, True), (1, {}, False)):
            with pytest.raises(FetchError, match=f"job {what}|KeyError") as caught:
                await found._result(found._proofs, what, fetch_process.packed(head), 5)
            assert caught.value.refused is refused
        with pytest.raises(FetchError, match="without an object"):
            await found._result(found._proofs, fetch_process.TXT, b"[]", 5)
        assert await found.txt("shop.example") == ["urlguard-proof=abc"]


async def test_addresses_of_a_hundred(authority, said):
    """
    A hundred names are asked at once; of more, the first hundred; and none is no question.
    """
    zone = {(f"n{n}.example", "A"): [f"127.1.0.{n}"] for n in range(120)}
    async with Names(zone) as names, running(names, authority) as found:
        assert await found.addresses([]) == {}
        assert names.asked == []
        answers = await found.addresses([f"n{n}.example" for n in range(120)])
        assert answers == {
            f"n{n}.example": [f"127.1.0.{n}"] for n in range(fetch_process.MAX_NAMES)
        }
        await found.addresses(["none.example"])
        assert set(names.asked[-2:]) == {("none.example", kind, "udp") for kind in ("A", "AAAA")}
    assert said == []


@pytest.mark.timing
async def test_addresses_that_nobody_knows(authority, said):
    """
    A silent upstream, or one that fails, says nothing of a name: neither that it has an address
    nor that it has none; and it is waited for no longer than a look-up takes.
    """
    async with Names(ZONE) as names, running(names, authority) as found:
        names.rcode = dns.rcode.SERVFAIL
        assert await found.addresses(["shop.example", "none.example"]) == {}
        names.rcode = dns.rcode.NOERROR
        names.silent = True
        begun = time.monotonic()
        assert await found.addresses([f"n{n}.example" for n in range(100)]) == {}
        assert time.monotonic() - begun < LOOKUP_S + 1
        names.silent = False
        assert await found.addresses(["shop.example"]) == {"shop.example": ["127.1.0.1"]}
    assert said == []


async def test_what_the_child_has(authority, monkeypatch, tmp_path):
    """
    No secret of ours in its environment, no files, no core, no new processes, low priority.
    """
    monkeypatch.setenv("URLGUARD_TOKEN", "secret")
    monkeypatch.setenv("https_proxy", "http://user:secret@127.1.0.1:9")
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    async with Names(ZONE) as names, running(names, authority) as found:
        await found.txt("shop.example")
        of = Path(f"/proc/{found.pid}")
        given = dict(v.split(b"=", 1) for v in (of / "environ").read_bytes().split(b"\0") if v)
        assert {name.decode() for name in given} <= set(fetch_pool.KEPT)
        limits = (of / "limits").read_text()
        for name in ("Max file size", "Max core file size", "Max processes"):
            assert f"{name:<26}0                    0 " in limits
        assert f"{'Max address space':<26}{sandbox.MEMORY}" in limits
        assert f"{'Max open files':<26}{sandbox.DESCRIPTORS}" in limits
        assert "NoNewPrivs:\t1" in (of / "status").read_text()
        assert int((of / "stat").read_text().rpartition(")")[2].split()[16]) >= fetch_process.NICE
        assert (of / "cwd").readlink() == Path("/")
        # Standard streams, the answers' pipe, and the loop's own: nothing of the server's.
        kinds = [str(one.readlink()) for one in (of / "fd").iterdir()]
        assert not [k for k in kinds if k.endswith((".db", ".key", ".toml"))]


CONFINED = """
import os, pathlib, socket, sys
from urlguard.processes import sandbox
sys.exit(77) if not sandbox.enter(5) else None
try:
    {}
except PermissionError:
    sys.exit(13)
"""


@pytest.mark.parametrize(
    "work",
    [
        f"open({__file__!r})",
        "open('/etc/passwd')",
        "os.open('/dev/null', os.O_WRONLY)",
        "os.kill(os.getppid(), 0)",
        "os.listdir('/etc')",
        "os.execv('/bin/true', ['true'])",
        "socket.socket().bind(('127.0.0.1', 0))",
    ],
)
def test_what_a_confined_process_cannot_do(work):
    """
    Files cannot be read or made, programs not run, nor others signalled, even as root.
    """
    done = subprocess.run([sys.executable, "-c", CONFINED.format(work)], cwd=ROOT, timeout=60)
    if done.returncode == 77:
        pytest.skip("the kernel has no Landlock")
    assert done.returncode == 13
    free = CONFINED.format(work).replace("not sandbox.enter(5)", "False")
    assert subprocess.run([sys.executable, "-c", free], cwd=ROOT, timeout=60).returncode == 0


async def test_a_child_that_dies(authority, said):
    """
    A proof under way is tried once more by the next child; a webhook fails, for it may have
    arrived.
    """
    slow = drip(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", 0.05)
    async with (
        Names(ZONE) as names,
        Site(slow, authority.server("hook.example")) as hook,
        Site(slow) as shop,
        running(names, authority, https=1, http=shop.port, total_s=10.0) as found,
    ):
        url = f"https://hook.example:{hook.port}/"
        webhook = asyncio.create_task(found.post_webhook(url, b"", {}))
        proof = asyncio.create_task(found.proof_file("shop.example"))
        await until(lambda: hook.requests and shop.requests)
        shop.behave = answer(PROOF)
        first = found.pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises(FetchError, match="whether it has arrived is not known") as caught:
            await webhook
        assert not caught.value.refused
        assert (await proof).body == PROOF
        assert found.pid != first
        assert len(hook.requests) == 1
        assert len(shop.requests) == 2
        # A proof whose second child dies too is given up.
        shop.behave = slow
        proof = asyncio.create_task(found.proof_file("shop.example"))
        for count in (3, 4):
            await until(lambda count=count: len(shop.requests) == count)
            os.kill(found.pid, signal.SIGKILL)
        with pytest.raises(FetchError, match="the fetch process ended"):
            await proof
    assert [event for event, _ in said] == ["process.died"] * 3
    assert said[0][1] == {
        "process": "fetch 0",
        "exit": -signal.SIGKILL,
        "jobs": 2,
        "error": "",
    }


async def test_a_child_that_hangs(authority, said):
    """
    One that does not answer in a job's time is killed, and its proof is tried again.
    """
    async with (
        Names(ZONE) as names,
        Site(answer(PROOF)) as shop,
        running(names, authority, https=1, http=shop.port, total_s=0.5, grace_s=1.0) as found,
    ):
        await found.txt("shop.example")
        first = found.pid
        os.kill(first, signal.SIGSTOP)
        assert (await found.proof_file("shop.example")).body == PROOF
        assert found.pid != first
    assert said[0][0] == "process.died"
    assert said[0][1]["error"] == "a job took more than 2 s"


async def test_a_child_that_rests(authority, said):
    """
    Without a job it is ended after a while, and the next job starts another; that is no failure.
    """
    async with Names(ZONE) as names, running(names, authority, idle_s=0.1) as found:
        await found.txt("shop.example")
        await until(lambda: found.pid is None)
        jobs = [found.txt("shop.example") for _ in range(3)]
        assert await asyncio.gather(*jobs) == [["urlguard-proof=abc"]] * 3
        await until(lambda: found.pid is None)
    assert said == []


async def test_it_ends_with_its_parent(authority):
    """
    The child ends when the pool does, also if it is in the middle of something.
    """
    slow = drip(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", 0.05)
    async with Names(ZONE) as names, Site(slow) as shop:
        async with running(names, authority, https=1, http=shop.port) as found:
            proof = asyncio.create_task(found.proof_file("shop.example"))
            await until(lambda: shop.requests)
            pid = found.pid
        assert gone(pid)
        with pytest.raises(FetchError, match="the server ends"):
            await proof
        with pytest.raises(FetchError, match="the server ends"):
            await found.txt("shop.example")


async def test_no_child_at_all(authority, said, monkeypatch, tmp_path):
    """
    If none can be started, whoever waits is told, the log says why, and later jobs try again.
    """
    monkeypatch.setattr(child_pool.sys, "executable", "/bin/false")
    async with Names(ZONE) as names, running(names, authority) as found:
        with pytest.raises(FetchError, match="no fetch process can be started"):
            await found.txt("shop.example")
        assert [event for event, _ in said] == ["process.died"] * 2
        monkeypatch.undo()
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        assert await found.txt("shop.example") == ["urlguard-proof=abc"]
    said.clear()
    monkeypatch.setattr(events, "error", lambda event, **keys: said.append((event, keys)))
    async with Names(ZONE) as names, running(names, authority) as found:
        found._bounds = Bounds(on_loopback, tmp_path / "none.pem")
        with pytest.raises(FetchError, match="no fetch process can be started"):
            await found.txt("shop.example")
    assert "none.pem: No such file" in said[0][1]["error"]


async def test_too_many(authority, monkeypatch):
    """
    Some are under way, some wait, the next is told to come back; webhooks and proofs each have
    places of their own, and who gives up frees one.
    """
    monkeypatch.setattr(fetch_pool, "MAX_WAITING", 20)
    slow = drip(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", 0.05)
    async with (
        Names(ZONE) as names,
        Site(slow, authority.server("hook.example")) as hook,
        running(names, authority, total_s=30.0) as found,
    ):
        url = f"https://hook.example:{hook.port}/"
        await found.txt("shop.example")
        jobs = [
            asyncio.create_task(found.post_webhook(url, b"", {}))
            for _ in range(fetch_pool.SLOTS + 20)
        ]
        await until(lambda: len(hook.requests) == fetch_pool.SLOTS)
        with pytest.raises(FetchBusyError) as caught:
            await found.post_webhook(url, b"", {})
        assert caught.value.retry_after_s == fetch_pool.RETRY_S
        assert await found.txt("shop.example") == ["urlguard-proof=abc"]
        jobs[-1].cancel()
        await asyncio.sleep(0)
        jobs.append(asyncio.create_task(found.post_webhook(url, b"", {})))
        await asyncio.sleep(0.1)
        assert not jobs[-1].done()
        assert len(hook.requests) == fetch_pool.SLOTS
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def test_the_timeout(authority, monkeypatch):
    """
    Nobody waits for ever, whatever happens to be wrong.
    """
    monkeypatch.setattr(fetch_pool, "TIMEOUT_S", 0.1)
    found = FetchPool(config.Config())  # nobody runs it
    with pytest.raises(FetchError, match=r"not fetched within 0\.1 s"):
        await found.txt("shop.example")
    assert not found._proofs.waiting
