"""Ports for the servers that tests start."""

import secrets
import socket
from collections.abc import Iterator

BLOCKS = [range(first, first + 100) for first in range(10_000, 32_700, 100)]
"""Below the ports that Linux gives to whoever asks for any: it could give one before we use it."""


def free_port() -> int:
    """A port that nobody uses, and that no other tests will."""
    return next(_ports)


def _claimed() -> Iterator[int]:
    """Free ports of one block after the other, each once.

    Holding a block's first port keeps the tests of other processes out of the block.
    """
    secrets.SystemRandom().shuffle(BLOCKS)
    for block in BLOCKS:
        with socket.socket() as claim:
            if _is_taken(claim, block[0]):
                continue
            for port in block[1:]:
                with socket.socket() as probe:
                    if _is_taken(probe, port):
                        continue
                yield port


def _is_taken(by: socket.socket, port: int) -> bool:
    try:
        by.bind(("127.0.0.1", port))
    except OSError:
        return True
    return False


_ports = _claimed()
