"""The stream of a run: precomputed within its share of the budget, and opened for training."""

import contextlib
import dataclasses
import functools
import math

from rich.console import Console

from fastconv.budget.pacing import PACING
from fastconv.data.stream.cache import in_use
from fastconv.data.stream.device import DeviceStream
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.remote import RemoteFolder, RemoteStream, read_manifest
from fastconv.data.stream.spec import OnlineStream, Stream
from fastconv.data.stream.writer import write_stream
from fastconv.system.distributed import is_first_rank
from fastconv.system.urls import redacted
from fastconv.system.wording import counted
from fastconv.training.plan import Run
from fastconv.training.stored_stream import make_room, write_epochs


def stream_in_use(run: Run) -> contextlib.AbstractContextManager[object]:
    """Protect a run's stream from removal by other processes. Enter it before writing, and leave it after training."""
    if not run.config.stream.is_stored:
        return contextlib.nullcontext()
    return in_use(run.config.stream.folder, run.spec.folder)


def precompute(run: Run, console: Console) -> Run:
    """Write the planned epochs that are missing, and remove old streams to make room; return the run to go on with.

    Where the budget counts this, it ends after its share of the time (`Pacing.precompute_share`). For a stream on a
    server, only the manifest is read here; shards are fetched when they are needed.

    Raises InputError for too little disk space or a server without the stream, StreamError for a damaged stream.
    """
    if not run.plan.stream_epochs:
        return run
    stream, epochs = run.config.stream, run.plan.stream_epochs
    if stream.is_remote:
        with run.clock.segment("precompute"):
            ready = read_manifest(RemoteFolder(stream.root), run.spec).epochs
        if ready < epochs:
            those = f"{ready} of {counted(epochs, 'epoch')}"
            line = f"{redacted(stream.root)} has {those}: the others are computed while training"
            console.print(line, highlight=False, markup=False)
    make_room(stream, run.spec, epochs, console)
    if stream.is_remote:
        return run
    deadline, is_late = _deadline(run), False

    def is_over() -> bool:  # called in several threads, so not by the run's clock
        nonlocal is_late
        is_late = is_late or run.clock.now() >= deadline
        return is_late

    with run.clock.segment("precompute"):
        write_epochs(stream, run.spec, run.train, epochs, console, is_over)
    if is_late:
        console.print("the time for precomputing is over: what is missing is augmented while training")
    return dataclasses.replace(run, stream_grows=not is_late)


def _deadline(run: Run) -> float:
    """The time, as the run's clock reads it, at which precomputing ends."""
    budget = run.config.budget
    if budget.seconds is None or "precompute" not in budget.counts:
        return math.inf
    left = budget.seconds - run.clock.counted(tuple(budget.counts))
    return run.clock.now() + PACING.precompute_share * max(0.0, left)


def open_stream(run: Run) -> Stream:
    """Open the training stream of a run. Parts that are not on disk or on the server are computed.

    Raises InputError for a server without the stream, StreamError for a damaged manifest.
    """
    stream = run.config.stream
    if stream.mode == "online":
        return OnlineStream(run.spec, run.train)
    if stream.mode == "device":
        return DeviceStream(run.spec, run.train, functools.partial(run.clock.segment, "precompute"))
    # If training is faster than the benchmark, it may need more epochs than planned, up to two limits.
    most = stream.max_bytes / run.spec.epoch_bytes
    if run.plan.max_steps is not None:
        most = min(most, math.ceil(run.plan.max_steps * run.config.batch_size / run.spec.samples))
    if stream.is_remote:
        return RemoteStream(run.spec, stream.root, stream.folder, run.train, int(most))
    extend = None
    # Without a time limit all epochs were planned.
    if run.config.budget.seconds is not None and run.stream_grows and is_first_rank():
        extend = functools.partial(write_stream, run.spec, run.train, stream.folder, wait=False)
    return PrecomputedStream(run.spec, stream.folder, run.train, extend, int(most), stream.verify)
