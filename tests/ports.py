"""Ports for the servers that tests start."""

import itertools
import secrets
import socket

PORTS = range(10_000, 32_768)
"""Below those that Linux gives to whoever asks for any, which could take one before we use it."""

_tried = itertools.count(secrets.randbelow(len(PORTS)))
"""Each process of the tests begins somewhere else, and offers no port twice."""


def free_port() -> int:
    """A port that nobody listens on."""
    for number in _tried:
        port = PORTS[number % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("unreachable")
