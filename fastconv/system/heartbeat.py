"""Lets the processes of a run notice that one of them is gone, in whatever phase: planning, training or scoring.

In training a killed process is noticed by the others at once, since its connections close. Before and after it they
wait for each other in other ways, and a machine that is gone closes no connections.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fastconv.system.distributed import ENDED, FAILED, alive, connect, rank, started_together, world
from fastconv.system.errors import SharedError

BEAT_SECONDS = 2.0
# A process that says nothing for so long is gone: a library that is loaded may keep it from speaking for seconds.
SILENT_SECONDS = 20.0
# Seconds that the first process, which may hold the store, waits at its end for the others to end too.
LAST_SECONDS = 10.0


class Heartbeat:
    """What one process says of itself and hears of the others, through a key-value store.

    Every process says a growing number. The first one listens to all others, and they listen to it.

    Args:
        store: with `set`, `get` and `check`.
        rank, ranks: number of this process, and of processes.
        now: monotonic time in seconds.
    """

    def __init__(self, store: Any, rank: int, ranks: int, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._rank, self._now = store, rank, now
        self._others = range(1, ranks) if rank == 0 else range(1)
        self._beats = 0
        self._heard: dict[int, tuple[str, float]] = {other: ("", now()) for other in self._others}

    def beat(self) -> str:
        """Say that this process is there, and listen. Returns who is gone; empty if nobody is.

        A process that was never heard may still read its images.
        """
        self._beats += 1
        self.say(str(self._beats))
        for other in self._others:
            heard, since = self._heard[other]
            if heard == ENDED:
                continue
            said = self._listen(other)
            if said != heard:
                self._heard[other] = heard, since = said, self._now()
            if heard == FAILED or (heard and self._now() - since > SILENT_SECONDS):
                return f"process {other}"
        return ""

    def say(self, word: str) -> None:
        """Say something for the others to hear."""
        self._store.set(alive(self._rank), word)

    def all_ended(self) -> bool:
        """Whether every process that this one listens to has ended."""
        return all(self._listen(other) in (ENDED, FAILED) for other in self._others)

    @property
    def first_has_ended(self) -> bool:
        """Whether the first process, as was heard last, has ended well; the store may end with it."""
        return self._rank > 0 and self._heard[0][0] == ENDED

    def _listen(self, other: int) -> str:
        key = alive(other)
        return self._store.get(key).decode() if self._store.check([key]) else ""


@contextmanager
def watching_ranks() -> Iterator[None]:
    """Within the block, end this process with a line and code 1 if another one of the run is gone.

    For processes that a launcher has started together; those that the first one starts watch it themselves.
    """
    if not started_together() or world() == 1:
        yield
        return
    heartbeat, over = Heartbeat(connect(), rank(), world()), threading.Event()
    thread = threading.Thread(target=_watch, args=(heartbeat, over), daemon=True, name="heartbeat")
    thread.start()
    word = FAILED
    try:
        yield
        word = ENDED
    except SharedError:  # it ends all of them by itself
        word = ENDED
        raise
    finally:
        over.set()
        thread.join(2 * BEAT_SECONDS)
        with suppress(Exception):  # the store may be gone
            heartbeat.say(word)
            deadline = time.monotonic() + LAST_SECONDS
            while word == ENDED and rank() == 0 and not heartbeat.all_ended() and time.monotonic() < deadline:
                time.sleep(BEAT_SECONDS / 10)


def _watch(heartbeat: Heartbeat, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        try:
            gone = heartbeat.beat()
        except Exception:  # torch raises several kinds when the store is gone
            if heartbeat.first_has_ended:
                return
            gone = "the process that keeps the store"
        if gone and not over.is_set():
            print(f"fastconv: {gone} of this run is gone, so this one ends too", file=sys.stderr, flush=True)
            with suppress(Exception):
                heartbeat.say(FAILED)
            os._exit(1)
