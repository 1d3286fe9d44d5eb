"""The first start's admin token, by a real server."""

import stat

from tests.running import wait_until
from urlguard.access.roles import Role
from urlguard.access.tokens import Holder, Tokens


def test_the_first_start_of_a_server(server):
    """
    Makes the admin's token and says where it lies, never what it is; a second start makes none, and
    what a command does meanwhile holds at once.
    """
    running = server().start()
    state = next(running.folder.glob("*/policy.db")).parent
    file = state / "admin.token"
    wait_until(lambda: "access.first_admin" in running.log.read_text(), 10)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text().strip()
    assert str(file) in running.log.read_text()
    assert "ug_" not in running.log.read_text()
    tokens = Tokens(state / "access.db")
    try:
        assert tokens.check(text) == Holder("admin", Role.ADMIN, 1)
        made = running.run("token", "create", "alice", "--role", "analyst").stdout.strip()
        assert tokens.check(made) == Holder("alice", Role.ANALYST, 2)
        running.run("token", "revoke", "admin")
        assert tokens.check(text) is None
    finally:
        tokens.close()
    file.unlink()
    assert running.stop() == 0
    running.start()
    assert running.stop() == 0
    assert running.log.read_text().count("access.first_admin") == 1
    assert not file.exists()
