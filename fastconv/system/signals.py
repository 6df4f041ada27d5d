"""Signals that ask a run to end. Outside training they take effect at once, in training after the current step."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastconv.system.cluster import launch
from fastconv.system.errors import InputError

# Ctrl-C, a scheduler's request to stop, and the early warning that SLURM sends with `--signal=USR1@60`. Windows lacks
# the latter.
SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
# The exit code of a command that Ctrl-C ended.
INTERRUPT_CODE = 128 + signal.SIGINT


class Interrupted(BaseException):
    """A signal asked the process to end. Not an `Exception`, so that no handler of ordinary errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        self.advice: str | None = None
        self.goes_on = number == signal.SIGTERM and launch() is None
        """Whether to requeue the job: if it is preempted. Before the end of its time, or where a launcher sends the
        signal since another rank has failed, only if it has saved further steps, lest it begin again for ever."""


# Signals belong to the process, so the received one is kept in a module variable.
_received: int | None = None
_deferred = False
_second_ends = True
_passes_over_warning = False


@contextmanager
def listening(second_ends: bool = True) -> Iterator[None]:
    """Within the block, raise `Interrupted` when a signal arrives.

    Args:
        second_ends: whether a second Ctrl-C ends the process at once, or else raises KeyboardInterrupt at once.
    """
    global _received, _deferred, _second_ends, _passes_over_warning
    _received, _deferred, _second_ends, _passes_over_warning = None, False, second_ends, False
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return
    before, asks = {number: signal.getsignal(number) for number in _heard()}, _of_submitit()
    listen()
    number = None
    try:
        yield
    except Interrupted as error:
        number = error.exit_code - 128
        if number != asks:
            raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        _received, _deferred = None, False
    if number is not None and callable(ask := before[number]):
        try:
            ask(number, None)  # requeues the job and ends this process
        except Exception as error:
            raise InputError(f"the job was stopped and is not requeued: {error}") from error
        raise Interrupted(number)


def listen() -> None:
    """Install the handlers, also again after others replaced them: Lightning's Trainer does when it starts."""
    if threading.current_thread() is threading.main_thread():
        for number in _heard():
            signal.signal(number, _receive)


def _heard() -> tuple[int, ...]:
    """The signals that ask this process to end. In a job of submitit it has handlers of its own for the others."""
    asks = _of_submitit()
    return SIGNALS if asks is None else (signal.SIGINT, asks)


def _of_submitit() -> int | None:
    """The signal by which a job of submitit is asked to end: its handler requeues the job. None in other processes."""
    if "SUBMITIT_EXECUTOR" not in os.environ or "submitit" not in sys.modules:
        return None
    name = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    return getattr(signal, name, None)


def defer(on: bool) -> None:
    """Set whether a signal is only recorded, for `received` to report, instead of raising where it arrives."""
    global _deferred
    _deferred = on


def pass_over_warning() -> None:
    """Do nothing from now on when SLURM warns, by SIGUSR1, that the job's time is nearly over: until the end of
    `listening`, for a run whose budget is that time."""
    global _passes_over_warning
    _passes_over_warning = True


@contextmanager
def ending() -> Iterator[None]:
    """Within the block, pass over SIGTERM, by which SLURM ends a job that this process requeues, also this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def received() -> int | None:
    """The first signal that arrived; None if there was none."""
    return _received


def raise_received() -> None:
    """Raise `Interrupted` if a signal has arrived."""
    if _received is not None:
        raise Interrupted(_received)


def _receive(number: int, frame: FrameType | None) -> None:
    global _received
    if _passes_over_warning and signal.Signals(number).name == "SIGUSR1":
        return
    if _received is not None:
        if number == signal.SIGINT and not _second_ends:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            os._exit(INTERRUPT_CODE)
        return
    _received = number
    if not _deferred:
        raise Interrupted(number)
