"""Ports for servers of tests, which take them only after they were looked for, and again after they were killed.

They lie below those that the kernel gives to connections and to whoever asks for any port (from 32768 on Linux), so
that nobody is given one meanwhile.
"""

from __future__ import annotations

import random
import socket

FIRST, LAST = 20_000, 22_700
CLUSTER_BUS = 10_000  # a node of a Redis cluster takes this one above as well


def free_port() -> int:
    """Return a port that nobody listens on, nor on the cluster's above it."""
    dice = random.SystemRandom()  # other runs on this machine look elsewhere
    while True:
        port = dice.randrange(FIRST, LAST)
        if _is_free(port) and _is_free(port + CLUSTER_BUS):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
