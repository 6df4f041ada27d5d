"""Signals that ask a run to end: obeyed at once where nothing can be lost, and after the running step in training."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, a scheduler's request to end, and the early warning that SLURM sends with `--signal=USR1@60`.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(BaseException):
    """A signal asked the process to end. No `Exception`, so that nothing goes on as if it were an ordinary error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        self.advice: str | None = None


# Signals are the process's, so what was received is too.
_received: int | None = None
_deferred = False


@contextmanager
def listening() -> Iterator[None]:
    """Turn the signals into `Interrupted` within the block. A second Ctrl-C ends the process at once."""
    global _received, _deferred
    _received, _deferred = None, False
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> None:
    """Take the signals (back) from whoever has them, such as Lightning's Trainer, which takes them when it starts."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _receive)


def defer(on: bool) -> None:
    """Whether a signal waits for somebody to ask for it with `received`, instead of raising where it arrives."""
    global _deferred
    _deferred = on


def received() -> int | None:
    """The signal that arrived first, if one did."""
    return _received


def obey() -> None:
    """Raise `Interrupted` if a signal arrived."""
    if _received is not None:
        raise Interrupted(_received)


def _receive(number: int, frame: FrameType | None) -> None:
    global _received
    if _received is not None:
        if number == signal.SIGINT:
            os._exit(128 + number)
        return
    _received = number
    if not _deferred:
        raise Interrupted(number)
