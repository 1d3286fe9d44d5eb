"""The whole server, as its users meet it: real processes, real sockets, real files."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.running import UPSTREAM_ADDRESS, wait_until


def test_blocks_what_is_listed_and_passes_the_rest_on(server):
    """
    A listed name gets the sinkhole over UDP and TCP; any other gets the upstream's answer.
    """
    running = server().start()
    assert running.blocks("evil.example")
    assert running.blocks("www.evil.example")
    assert running.ask("evil.example", tcp=True).answer[0][0].to_text() == "127.0.0.1"
    assert running.addresses("notevil.example") == [UPSTREAM_ADDRESS]
    assert running.stop() == 0


def test_a_decision_is_in_force_on_every_worker_when_the_command_returns(server):
    """
    After `block` returns, no query from any port is answered otherwise; `remove` likewise.
    """
    running = server(workers=2).start()
    assert running.addresses("new.example") == [UPSTREAM_ADDRESS]
    out = running.run("block", "new.example").stdout
    assert "in force on 2 of 2 workers" in out
    # The kernel spreads source ports over the workers' sockets.
    assert all(running.blocks("new.example") for _ in range(40))
    assert "in force on 2 of 2 workers" in running.run("remove", "new.example").stdout
    assert not any(running.blocks("new.example") for _ in range(40))
    running.run("allow", "evil.example")
    assert running.addresses("a.evil.example") == [UPSTREAM_ADDRESS]
    assert "feed:list (block)" in running.run("remove", "evil.example").stdout
    assert running.blocks("a.evil.example")


def test_a_decision_expires_within_a_second_or_two(server):
    """
    A block with an expiry ends by itself, by a batch in the log.
    """
    running = server().start()
    running.run("block", "short.example", "--expires", "4s")
    assert running.blocks("short.example")
    wait_until(lambda: not running.blocks("short.example"), 8)
    assert "expired" in running.run("log").stdout


def test_a_command_without_a_server_counts_at_the_next_start(server):
    """
    `block` writes the log by itself, and the next start enforces it at once.
    """
    stopped = server()
    assert "in force at the next start" in stopped.run("block", "early.example").stdout
    stopped.start()
    assert stopped.blocks("early.example")
    assert stopped.blocks("evil.example")


def test_a_refresh_by_command_reaches_the_workers(server):
    """
    `feed refresh` in a process of its own is in force when it returns.
    """
    running = server().start()
    (running.folder / "list.txt").write_text("evil.example\nlater.example\n")
    running.run("feed", "refresh")
    assert running.blocks("later.example")
    assert not running.blocks("fraud.example")


@pytest.mark.slow
def test_a_new_snapshot_is_swapped_in_without_forgetting_what_came_after(server):
    """
    `compile` folds the overlay in; decisions before, during and after it stay in force.
    """
    running = server().start()
    running.run("block", "before.example")
    stop = threading.Event()
    lost = []

    def watch() -> None:
        while not stop.is_set():
            if not running.blocks("before.example"):
                lost.append(time.time())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(3):
            running.run("compile")
            running.run("block", f"after{number}.example")
    finally:
        stop.set()
        watcher.join()
    assert not lost
    assert "snapshot.swapped" in running.log.read_text()
    assert all(running.blocks(f"after{n}.example") for n in range(3))


@pytest.mark.parametrize("module", ["urlguard.worker.worker", "urlguard.control.control"])
@pytest.mark.slow
def test_a_killed_process_is_started_again_and_nothing_confirmed_is_lost(server, module):
    """
    kill -9 of a worker or of the control process: queries go on, decisions stay, new ones work.
    """
    running = server(workers=2).start()
    running.run("block", "kept.example")
    (victim, *_) = running.pids(module)
    os.kill(victim, signal.SIGKILL)
    assert running.blocks("kept.example")
    wait_until(
        lambda: len(set(running.pids(module)) - {victim}) >= (2 if "worker" in module else 1)
    )
    wait_until(lambda: len(running.status().get("workers", {})) == 2)
    assert all(running.blocks("kept.example") for _ in range(40))
    assert "in force on 2 of 2 workers" in running.run("block", "more.example").stdout
    assert all(running.blocks("more.example") for _ in range(40))


def test_workers_answer_on_without_the_control_process(server):
    """
    With the control process stopped, listed names stay blocked and others are passed on.
    """
    running = server().start()
    (control,) = running.pids("urlguard.control.control")
    os.kill(control, signal.SIGSTOP)
    try:
        assert all(running.blocks("evil.example") for _ in range(10))
        assert running.addresses("other.example") == [UPSTREAM_ADDRESS]
    finally:
        os.kill(control, signal.SIGCONT)


def test_no_process_outlives_a_killed_supervisor(server):
    """
    After kill -9 of the supervisor nobody goes on answering beside the next server.
    """
    running = server(workers=2).start()
    children = [pid for pid in running.processes() if pid != running.process.pid]
    os.kill(running.process.pid, signal.SIGKILL)
    running.forget()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)
    assert running.start().blocks("evil.example")


@pytest.mark.slow
def test_kill_9_at_any_moment_of_a_first_start(server):
    """
    Killed again and again during import, compile and swap, the next start serves, with every
    decision that a command had confirmed.
    """
    names = "".join(f"n{number}.example\n" for number in range(60_000))
    victim = server(names)
    confirmed = []
    for round_, delay in enumerate((0.25, 0.5, 0.8, 1.1, 1.5, 2.0, 2.6)):
        victim.begin()
        time.sleep(delay)
        name = f"decided{round_}.example"
        if victim.run("block", name, check=False).returncode == 0:
            confirmed.append(name)
        victim.kill_all()
    victim.start()
    assert len(confirmed) >= 5
    assert [name for name in confirmed if not victim.blocks(name)] == []
    assert victim.blocks("n59999.example")
    assert victim.run("log", "--verify").stdout.startswith("ok")


def test_sigterm_lets_queries_under_way_be_answered(server, upstream):
    """
    A forwarded query that is under way at SIGTERM still gets its answer.
    """
    running = server().start()
    slow = threading.Event()
    original = upstream.sock.sendto

    class Delayed:
        """The upstream's socket, holding one answer back."""

        def __getattr__(self, name):
            return getattr(real, name)

        def sendto(self, data, client):
            slow.set()
            time.sleep(0.3)
            return original(data, client)

    real, upstream.sock = upstream.sock, Delayed()
    got = []
    asking = threading.Thread(target=lambda: got.extend(running.addresses("slow.example")))
    asking.start()
    assert slow.wait(5)
    assert running.stop() == 0
    asking.join()
    upstream.sock = real
    assert got == [UPSTREAM_ADDRESS]


def test_a_second_server_on_the_same_folder_is_refused(server):
    """
    It says which process has the folder, and exits with 2.
    """
    running = server().start()
    again = running.run("serve", check=False)
    assert again.returncode == 2
    assert f"a server is running on it already, process {running.process.pid}" in again.stderr


def test_a_port_in_use_is_refused(server, tmp_path_factory):
    """
    A server on another folder does not share the port by SO_REUSEPORT; it says who to stop.
    """
    running = server().start()
    other = tmp_path_factory.mktemp("other")
    (other / "urlguard.toml").write_text(f'[server]\nlisten = ["127.0.0.1:{running.port}"]\n')
    done = subprocess.run(
        [sys.executable, "-m", "urlguard", "serve", "--config", str(other / "urlguard.toml")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "address already in use" in done.stderr


def test_an_acl_beyond_loopback_with_a_loopback_sinkhole_is_warned_of(server):
    """
    `serve` says that other machines would be sent to themselves.
    """
    running = server(more='[acl]\nallow = ["127.0.0.0/8", "192.0.2.0/24"]').start()
    assert re.search(r"warning: \[acl\] allow = 192\.0\.2\.0/24.*sinkhole", running.log.read_text())


def test_offline_blocked_names_answer_and_others_fail(server, upstream):
    """
    With no upstream reachable, listed names are still blocked and others get SERVFAIL.
    """
    running = server().start()
    upstream.close()
    assert running.blocks("evil.example")
    assert running.ask("other.example").rcode() == 2


@pytest.mark.slow
def test_a_corrupted_snapshot_is_refused_and_the_policy_stays(server):
    """
    One changed byte in the newest snapshot: the next start does not open it, and serves all rules.
    """
    running = server().start()
    running.run("block", "kept.example")
    running.run("compile")
    running.stop()
    newest = sorted((running.folder / "var" / "snapshots").glob("0*"))[-1] / "names.trie"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    running.start()
    assert running.blocks("kept.example")
    assert running.blocks("evil.example")
    assert "snapshot.refused" in running.log.read_text()


@pytest.mark.slow
@pytest.mark.timing
def test_block_to_answer_is_fast(server):
    """
    The 99th percentile of 200 decisions is in force on every worker within 200 ms of being asked.
    """
    from urlguard.policy.model import Change
    from urlguard.processes import channel

    running = server(workers=2).start()
    times = []
    for number in range(200):
        name = f"quick{number}.example"
        message = {
            "op": "apply",
            "source": "operator",
            "changes": [Change(f"subtree {name}", "block")],
            "actor": "test",
            "reason": "",
        }
        started = time.monotonic()
        reply = channel.ask(running.folder / "var", message)
        times.append(time.monotonic() - started)
        assert reply is not None
        assert reply["in_force"] == 2
        assert running.blocks(name)
    assert sorted(times)[197] < 0.2


@pytest.mark.slow
def test_a_restored_log_is_believed_over_newer_snapshots(server):
    """
    After an older copy of the log is put back, what it does not say is not enforced, and a new
    decision is, although workers had seen its serial before.
    """
    running = server(workers=2).start()
    running.run("block", "a.example")
    running.stop()
    database = running.folder / "var" / "policy.db"
    copy = database.read_bytes()
    running.start()
    running.run("block", "b.example")
    running.run("block", "c.example")
    running.run("compile")
    running.stop()
    database.write_bytes(copy)
    running.start()
    assert running.blocks("a.example")
    assert not running.blocks("b.example")
    assert "in force on 2 of 2 workers" in running.run("block", "d.example").stdout
    assert all(running.blocks("d.example") for _ in range(20))
    assert not any(running.blocks("c.example") for _ in range(20))


@pytest.mark.slow
def test_a_decision_does_not_wait_behind_a_large_list(server):
    """
    While a change too large for the overlay is being compiled, a decision is in force at once, and
    stays in force across the swap.
    """
    running = server(workers=2).start()
    names = "".join(f"n{number}.example\n" for number in range(60_000))
    (running.folder / "list.txt").write_text(names + "evil.example\n")
    running.run("feed", "refresh", "--force")
    assert "in force on 2 of 2 workers" in running.run("block", "urgent.example").stdout
    until = time.monotonic() + 60
    while not running.blocks("n59999.example"):
        assert all(running.blocks("urgent.example") for _ in range(5))
        assert time.monotonic() < until
    assert all(running.blocks("urgent.example") for _ in range(20))
    wait_until(lambda: set(running.status()["workers"].values()) == {running.status()["serial"]})
    assert all(running.blocks("urgent.example") for _ in range(20))


@pytest.mark.timing
def test_a_renamed_list_protects_until_its_new_name_is_there(server):
    """
    With a feed under a new name that cannot be had, a restart answers at once by the old rules.
    """
    running = server().start()
    running.stop()
    text = running.config.read_text()
    running.config.write_text(text.replace('"list"', '"new"').replace("list.txt", "none.txt"))
    started = time.monotonic()
    running.start()
    assert time.monotonic() - started < 10
    assert running.blocks("evil.example")
    (running.folder / "none.txt").write_text("other-fraud.example\n")
    running.run("feed", "refresh")
    running.stop()
    running.start()
    wait_until(lambda: not running.blocks("evil.example"))
    assert running.blocks("other-fraud.example")


@pytest.mark.timing
def test_a_pipelining_client_does_not_starve_the_others(server):
    """
    Beside a TCP client that asks without end, UDP clients are answered at once.
    """
    import socket

    from tests.client import query

    running = server().start()
    wire = query("evil.example", "A")
    flood = (len(wire).to_bytes(2, "big") + wire) * 2000
    stop = threading.Event()

    def pipeline() -> None:
        with socket.create_connection(("127.0.0.1", running.port)) as sock:
            sock.settimeout(5)
            reader = threading.Thread(target=drain, args=(sock,))
            reader.start()
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    sock.sendall(flood)
                sock.shutdown(socket.SHUT_WR)
            reader.join()

    def drain(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 20):
                pass

    clients = [threading.Thread(target=pipeline) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        time.sleep(0.5)
        slowest = 0.0
        for _ in range(100):
            started = time.monotonic()
            assert running.blocks("evil.example")
            slowest = max(slowest, time.monotonic() - started)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert slowest < 0.5


def test_a_state_folder_deleted_beneath_the_server_is_told(server):
    """
    Workers keep their policy, the log says once what is wrong, and nothing is compiled for nothing.
    """
    one = server().start()
    assert one.blocks("evil.example")
    before = one.log.read_text().count("snapshot.compiled")
    # In one step, and then at leisure: processes write into it meanwhile.
    (one.folder / "var").rename(one.folder / "gone")
    shutil.rmtree(one.folder / "gone", ignore_errors=True)
    wait_until(lambda: "policy.watch" in one.log.read_text())
    time.sleep(1.5)
    told = one.log.read_text()
    assert told.count("policy.watch") == 1
    assert "put it back or restart" in told
    assert told.count("snapshot.compiled") <= before + 1
    assert one.blocks("evil.example")
    assert one.stop() == 0
