"""
Does a forged reply ever get in, when somebody floods them who cannot see the queries?

    python -m benchmarks.forging [TRIES] [--knows nothing|port|id] [--seed N]

Plays both the upstream, which answers truly after 40 ms, and the attacker, who makes us ask for
names below one domain (Kaminsky's way) and sends forged replies meanwhile from the upstream's own
address and port, as a spoofer would.  By default 1,000,000 of them.  The attacker guesses source
port, ID and spelling; with ``--knows port`` the ports are told, with ``--knows id`` the ID of each
open query too, so that the spelling alone is left to guess.  Prints what was sent, what arrived on
our ports and how it was counted.  Fails if one forgery was taken or a true answer was lost.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from urlguard.config import Endpoint, Upstream
from urlguard.plugins.base import Answer, Exchange
from urlguard.plugins.forward import Forward
from urlguard.wire.query import parse_query

TRUE, FORGED = bytes([192, 0, 2, 7]), bytes([203, 0, 113, 66])
AT_ONCE = 32  # names that the attacker makes us ask for at a time
BURST = 2000  # forged replies while they are open
DELAY_S = 0.04
NAME = "www{}.bank.example"
# Where port and ID are known, a short name's spelling can be guessed within a million tries.
LONG = "www{}.the-very-long-name-of-some-bank-with-all-of-its-many-letters.example"


@dataclass
class Result:
    """What came of it; ``lost`` are names that got no true answer."""

    tries: int = 0
    taken: int = 0
    answered: int = 0
    lost: int = 0
    seconds: float = 0.0
    counters: Counter[str] = field(default_factory=Counter)


class Truth(asyncio.DatagramProtocol):
    """The upstream: a true answer, after a while."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        """Keep it to answer by, and to forge by."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer later, so that the attacker has time."""
        end = data.index(b"\0", 12) + 5
        wire = answer(data[12:end], data[0] << 8 | data[1], TRUE)
        asyncio.get_running_loop().call_later(DELAY_S, self.answer, wire, addr)

    def answer(self, wire: bytes, addr: Any) -> None:
        """Answer now, unless all is over."""
        if not self.transport.is_closing():
            self.transport.sendto(wire, addr)


def answer(question: bytes, ident: int, address: bytes) -> bytes:
    """A reply to the question with one address."""
    head = ident.to_bytes(2) + b"\x81\x80\0\1\0\1\0\0\0\0"
    return head + question + b"\xc0\x0c\0\1\0\1\0\1\x51\x80\0\4" + address


def wire_name(text: str) -> bytes:
    """A name as it stands in a question of type A."""
    labels = [bytes([len(label)]) + label.encode() for label in text.split(".")]
    return b"".join(labels) + b"\0\0\1\0\1"


def respelled(question: bytes, rng: random.Random) -> bytes:
    """A guess at the spelling."""
    return bytes(
        octet ^ 0x20 if 97 <= octet <= 122 and rng.random() < 0.5 else octet
        for octet in question[:-4]
    ) + question[-4:]  # fmt: skip


async def attack(tries: int, knows: str = "nothing", seed: int = 1, ports: int = 256) -> Result:
    """Send `tries` forged replies; `knows` is ``nothing``, ``port`` or ``id``."""
    loop = asyncio.get_running_loop()
    rng = random.Random(seed)  # the attacker's; ours is the operating system's
    transport, truth = await loop.create_datagram_endpoint(Truth, local_addr=("127.0.0.1", 0))
    where = Endpoint(*transport.get_extra_info("sockname")[:2])
    forward = Forward([Upstream(where)], loop, ports=ports, timeout_ms=2000)
    result = Result()
    begun = time.monotonic()
    number = 0
    try:
        while result.tries < tries:
            waiting = {number + n: loop.create_future() for n in range(AT_ONCE)}
            number += AT_ONCE
            guesses = []
            for n, future in waiting.items():
                question = wire_name((LONG if knows == "id" else NAME).format(n))
                guesses += [respelled(question, rng) for _ in range(8)]
                query = parse_query(os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + question)
                forward.ask(Exchange(query), _into(future))
            told = _open(forward) if knows != "nothing" else []
            for sent in range(min(BURST, tries - result.tries)):
                port, ident, asked = (
                    rng.choice(told) if told else (rng.randrange(1024, 65_536), 0, b"")
                )
                if knows == "id":
                    guess = respelled(asked.lower(), rng)
                else:
                    guess, ident = rng.choice(guesses), rng.randrange(65_536)
                truth.transport.sendto(answer(guess, ident, FORGED), ("127.0.0.1", port))
                result.tries += 1
                if sent % 100 == 99:
                    await asyncio.sleep(0)  # the resolver reads meanwhile
            for octets in await asyncio.gather(*waiting.values()):
                result.answered += TRUE in octets
                result.taken += FORGED in octets
                result.lost += TRUE not in octets
    finally:
        result.counters = Counter(forward.counters)
        result.seconds = time.monotonic() - begun
        forward.close()
        transport.close()
    return result


def _into(future: "asyncio.Future[bytes]") -> Any:
    def done(x: Exchange, found: Answer | None) -> None:
        future.set_result(b"" if found is None else found.octets(x))

    return done


def _open(forward: Forward) -> list[tuple[int, int, bytes]]:
    """What an attacker is told who knows more than can be known: port, ID and name."""
    (upstream,) = forward._upstreams.values()
    return [
        (channel.sock.getsockname()[1], ident, attempt.question)
        for channel in upstream.ports._slots
        if channel is not None
        for ident, attempt in channel.open.items()
    ]


def main() -> None:
    """Attack and print; exit code 1 if a forgery got in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("tries", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--knows", choices=("nothing", "port", "id"), default="nothing")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    result = asyncio.run(attack(args.tries, args.knows, args.seed))
    print(f"{result.tries} forged replies in {result.seconds:.1f} s, knowing {args.knows}")
    print(f"{result.answered} true answers, {result.lost} lost, {result.taken} forged ones taken")
    print(json.dumps(dict(sorted(result.counters.items()))))
    if result.taken or result.lost:
        sys.exit("failed: an answer was forged or lost")


if __name__ == "__main__":
    main()
