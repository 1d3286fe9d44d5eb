"""A real Unbound that forwards everything to one server, and validates what it says."""

from collections.abc import Iterable
from pathlib import Path

from tests.bind import Daemon, free_port, need


class Unbound(Daemon):
    """
    An ``unbound`` with its own folder and port.

    Args:
        forward_to: port of a server on 127.0.0.1.
        anchors: DS records of zones that must be signed; with none it does not validate.
        more: statements for ``server``.
    """

    def __init__(
        self, folder: Path, forward_to: int, anchors: Iterable[str] = (), more: str = ""
    ) -> None:
        port = free_port()
        folder.mkdir(exist_ok=True)
        trusted = "\n".join(f"    trust-anchor: '{record}'" for record in anchors)
        (folder / "unbound.conf").write_text(
            f"""
server:
    interface: 127.0.0.1@{port}
    port: {port}
    directory: "{folder}"
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    do-ip6: no
    do-not-query-localhost: no
    num-threads: 1
    module-config: "{"validator iterator" if trusted else "iterator"}"
{trusted}
{more}
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{forward_to}
"""
        )
        command = [need("unbound"), "-d", "-c", str(folder / "unbound.conf")]
        super().__init__(command, port, folder / "log")
