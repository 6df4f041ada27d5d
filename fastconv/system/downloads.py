"""Downloads by other libraries, which set no limit of their own and would wait for ever."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds that a server may take for each answer.
TIMEOUT_SECONDS = 30


@contextmanager
def limited_waiting() -> Iterator[None]:
    """Within the block, let no new connection of this process wait longer than TIMEOUT_SECONDS for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
