"""Lets the processes of a run notice that one is gone, in whatever phase: reading, planning, training or scoring.

In training a killed process is noticed by the others at once, since its connections close. Before and after it they
wait for each other in other ways, and a machine that is gone closes no connections.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from fastconv.system import signals
from fastconv.system.distributed import all_know, lost_rank, rank, started_together, world
from fastconv.system.errors import InputError
from fastconv.system.first_files import remove_copies
from fastconv.system.rank_store import ASK_AGAIN_SECONDS, connect, has_other_keeper, is_connected, store
from fastconv.system.signals import Interrupted, ending

BEAT_SECONDS = 2.0
# A process is gone that says nothing new for this many beats of the one that listens. A library that is loaded may keep
# it from speaking for seconds. Beats, since the time passes for processes that are suspended together too.
SILENT_BEATS = 10
# The same for one that ends anyway and only waits for the first one, should that have been killed.
FEW_BEATS = 3
# Looks within a beat of one that only waits for the end of others.
OFTEN = 10
# Seconds that the first process, which may hold the store, waits at its end for the others to end too.
LAST_SECONDS = 10.0
# Seconds after which a process ends that could not say how: the machine that keeps the store may be gone.
MOST_TO_SAY = LAST_SECONDS + 2 * BEAT_SECONDS
# Seconds that other processes give the first one, after it has ended its run, to say why and to requeue its job; and
# seconds that those which do not hear it, such as those that it started itself, wait for it at most.
TIME_TO_SAY, WAIT_FOR_FIRST_RANK = 3.0, 20.0
# What a process says at its end, for the others to hear: that it has ended well or that all know why it has not, that a
# signal ended it, that it failed alone, or that it ends since another one is gone; then, of one that has waited for the
# end of the first, that it asks no more.
ENDED, STOPPED, FAILED, LOST, LEFT = "ended", "stopped", "failed", "lost", "left"
ENDS = (ENDED, STOPPED, FAILED, LOST, LEFT)
STORE = "the process that keeps the store"


class Heartbeat:
    """The signs of life that one process gives, and hears of the others, through a key-value store.

    Every process says a growing number. The first one listens to all others, and they listen to it.

    Args:
        store: with `set`, `get` and `check`.
        rank, ranks: number of this process, and of processes.
        patience: beats for which another process may say nothing new.
    """

    def __init__(self, store: Any, rank: int, ranks: int, patience: int = SILENT_BEATS) -> None:
        self._store, self._rank, self._patience = store, rank, patience
        self._others = range(1, ranks) if rank == 0 else range(1)
        self._beats = 0
        self.answered = 0
        """Number of beats in which the store has answered."""
        # Of each other process what it has said last, and beats since then.
        self._heard: dict[int, tuple[str, int]] = dict.fromkeys(self._others, ("", 0))

    def beat(self, is_stopped: bool = False) -> str:
        """Say that this process is there, and listen. Returns who is gone; empty if nobody is.

        A process that was never heard may still read its images. One that a signal has ended is soon gone, unless a
        signal ends this process too.

        Args:
            is_stopped: whether a signal ends this process.
        """
        self._beats += 1
        self.say(str(self._beats))
        gone = self.listen(is_stopped)
        self.answered += 1
        return gone

    def listen(self, is_stopped: bool = False) -> str:
        """Listen only; the same as `beat` otherwise."""
        for other, (heard, quiet) in self._heard.items():
            if heard == ENDED:
                continue
            said = said_by(self._store, other)
            quiet = quiet + 1 if said == heard else 0
            self._heard[other] = said, quiet
            if said in (FAILED, LOST) or (said and quiet >= self._patience and not (said == STOPPED and is_stopped)):
                return f"process {other}"
        return ""

    def say(self, word: str) -> None:
        """Say something for the others to hear."""
        self._store.set(_key(self._rank), word)

    def all_said(self, *words: str) -> bool:
        """Whether every process that this one listens to has said one of these words."""
        return all(said_by(self._store, other) in words for other in self._others)

    @property
    def has_heard(self) -> bool:
        """Whether any process that this one listens to has said something."""
        return any(said for said, _ in self._heard.values())

    def first_has_ended(self, is_stopped: bool = False) -> bool:
        """Whether the first process, as was heard last, has ended as this one does; the store may end with it."""
        return self._rank > 0 and self._heard[0][0] in (ENDED, *[STOPPED] * is_stopped)


def said_by(store: Any, rank: int) -> str:
    """What a process has said last, as a store has it; empty for nothing."""
    key = _key(rank)
    return store.get(key).decode() if store.check([key]) else ""


def _key(rank: int) -> str:
    return f"alive/{rank}"


# Whether the other processes end after the first one, by `end_after_first_rank`, since all know why the run ends.
_awaited = False


@contextmanager
def watching_ranks() -> Iterator[None]:
    """Within the block, end this process with a line and code 1 if another one of the run is gone.

    For processes that a launcher has started together; those that the first one starts watch it themselves.
    """
    if not started_together() or world() == 1:
        yield
        return
    heartbeat, over = Heartbeat(connect(), rank(), world()), threading.Event()
    thread = _started(_watch, heartbeat, over)
    _started(_watch_store, heartbeat, over, thread)
    global _awaited
    word, _awaited = FAILED, False
    try:
        yield
        word = ENDED
    except Interrupted:
        word, _awaited = STOPPED, True
        raise
    except Exception as error:
        _awaited = all_know(error)
        word = ENDED if _awaited else FAILED
        if lost_rank(error):
            raise InputError("a process of this run is gone, so this one ends too") from error
        raise
    finally:
        over.set()
        thread.join(2 * BEAT_SECONDS)
        _started(_take_leave, heartbeat, word).join(MOST_TO_SAY)


def _started(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that the process does not wait for when it ends."""
    thread = threading.Thread(target=work, args=arguments, daemon=True, name="heartbeat")
    thread.start()
    return thread


def _watch(heartbeat: Heartbeat, over: threading.Event) -> None:
    """Beat until the run is over or a process is gone; the others must soon know that this one has begun."""
    while True:
        is_stopped = signals.received() is not None
        try:
            gone = heartbeat.beat(is_stopped)
        except Exception:  # torch raises several kinds when the store is gone
            if heartbeat.first_has_ended(is_stopped):
                return
            gone = STORE
        if gone and not over.is_set():
            _end(gone, heartbeat)
        if over.wait(BEAT_SECONDS):
            return


def _watch_store(heartbeat: Heartbeat, over: threading.Event, thread: threading.Thread) -> None:
    """End this process when the store has not answered the thread that beats for as long as others may be silent.

    If the machine that keeps it, or the network, is gone, nothing closes the connection: a call waits for many minutes.
    """
    answered, quiet = heartbeat.answered, 0
    while quiet < SILENT_BEATS:
        if over.wait(BEAT_SECONDS) or not thread.is_alive():
            return
        quiet = quiet + 1 if heartbeat.answered == answered else 0
        answered = heartbeat.answered
    _end(STORE, heartbeat)


def _take_leave(heartbeat: Heartbeat, word: str) -> None:
    """Say how this process ends; the first one, which may keep the store, then waits for the others."""
    with suppress(Exception):  # the store may be gone
        heartbeat.say(word)
        deadline = time.monotonic() + LAST_SECONDS
        while word == ENDED and rank() == 0 and not heartbeat.all_said(*ENDS) and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / OFTEN)


def have_all_left_job() -> bool:
    """Whether all processes come to the next job of a sweep after this one has failed alone; waits for a while to know.

    They do where each refuses the job by itself. One that was still in it ends.
    """
    with suppress(Exception):  # the store may be gone
        for _ in range(SILENT_BEATS * OFTEN):
            said = [said_by(store(), other) for other in range(world())]
            if all(word in (ENDED, FAILED) for word in said):
                return True
            if {STOPPED, LOST, LEFT} & set(said):
                return False
            time.sleep(BEAT_SECONDS / OFTEN)
    return False


def end_last() -> None:
    """Wait, at the very end of the first process, until the others ask its store no more: torch prints a stack trace in
    one whose store is gone. Not for long, since the launcher may have ended them."""
    if not _awaited or rank() or not is_connected() or has_other_keeper():
        return
    with ending(), suppress(Exception, KeyboardInterrupt):
        heartbeat, deadline = Heartbeat(store(), rank(), world()), time.monotonic() + LAST_SECONDS
        while not heartbeat.all_said(LEFT, FAILED, LOST) and time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / OFTEN)


def _end(gone: str, heartbeat: Heartbeat) -> None:
    """End this process, since something is gone."""
    print(f"fastconv: {gone} of this run is gone, so this one ends too", file=sys.stderr, flush=True)
    _started(_take_leave, heartbeat, LOST).join(BEAT_SECONDS)
    remove_copies()
    os._exit(1)


def end_after_first_rank(code: int = 1) -> NoReturn:
    """End this process with an exit code after the first one, which may still write, say why and requeue its job.

    torchrun, some srun and the first rank, which started them, end all processes of a run as soon as one has failed.
    One that has heard nothing of the others yet, as it was started wrongly, does not wait until it does; and for a
    while only if it came to this job of a sweep before the first one, which may have ended in the job before.
    """
    if started_together():
        with suppress(Exception):  # torch raises several kinds when the store is gone
            heartbeat = Heartbeat(store(), rank(), world(), FEW_BEATS * OFTEN) if is_connected() else None
            waited = 0.0
            while heartbeat and not heartbeat.listen() and not heartbeat.first_has_ended(is_stopped=True):
                if not heartbeat.has_heard and waited > WAIT_FOR_FIRST_RANK:
                    break
                time.sleep(BEAT_SECONDS / OFTEN)
                waited += BEAT_SECONDS / OFTEN
            if heartbeat and heartbeat.first_has_ended(is_stopped=True):  # it waits for this
                heartbeat.say(LEFT)
        time.sleep(TIME_TO_SAY)
    else:
        parent, deadline = os.getppid(), time.monotonic() + WAIT_FOR_FIRST_RANK
        while os.getppid() == parent and time.monotonic() < deadline:
            time.sleep(ASK_AGAIN_SECONDS / OFTEN)
    remove_copies()
    os._exit(code)
