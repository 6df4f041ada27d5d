"""The stream of a run: precomputed within its share of the budget, and opened for training."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastconv.budget.pacing import PACING
from fastconv.data.stream.cache import in_use, prune, stored_streams
from fastconv.data.stream.device import DeviceStream
from fastconv.data.stream.parts import WHOLE, Part
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.remote import RemoteFolder, RemoteStream, read_manifest
from fastconv.data.stream.spec import OnlineStream, Stream
from fastconv.data.stream.upload import upload_stream
from fastconv.data.stream.writer import write_stream
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError
from fastconv.system.urls import redacted
from fastconv.system.wording import counted
from fastconv.training.plan import Run


def stream_in_use(run: Run) -> contextlib.AbstractContextManager[object]:
    """Protect a run's stream from removal by other processes. Enter it before writing, and leave it after training."""
    if not run.config.stream.is_stored:
        return contextlib.nullcontext()
    return in_use(run.config.stream.folder, run.spec.folder)


def precompute(
    run: Run, console: Console, in_time: bool = True, part: Part = WHOLE, elsewhere: Collection[str] = ()
) -> Run:
    """Write the planned epochs that are missing, and remove old streams to make room; return the run to go on with.

    With `part`, only that part of them, and none of the shards `elsewhere`. With `in_time`, where the budget counts
    this, it ends after its share of the time (`Pacing.precompute_share`).

    For a stream on a server, only the manifest is read here; shards are fetched when they are needed.

    Raises InputError for too little disk space or a server without the stream, StreamError for a damaged stream.
    """
    if not run.plan.stream_epochs:
        return run
    stream, root, epochs = run.config.stream, run.config.stream.folder, run.plan.stream_epochs
    if stream.is_remote:
        with run.clock.segment("precompute"):
            ready = read_manifest(RemoteFolder(stream.root), run.spec).epochs
        if ready < epochs:
            those = f"{ready} of {counted(epochs, 'epoch')}"
            line = f"{redacted(stream.root)} has {those}: the others are computed while training"
            console.print(line, highlight=False, markup=False)
    there = sum(stored.bytes for stored in stored_streams(root) if stored.folder.name == run.spec.folder)
    room = stream.max_gb * 1e9 - max(there, epochs * run.spec.epoch_bytes)
    if room < 0:
        raise InputError(
            f"{root / run.spec.folder} has {there / 1e9:.3g} GB, more than stream.max_gb={stream.max_gb:g}."
            " Raise it, remove the folder, or use stream=online"
        )
    for stored in prune(root, room, keep=run.spec.folder):
        console.print(f"removed the old stream {stored.folder}", highlight=False, markup=False)
    if stream.is_remote:
        return run
    deadline, is_late = _deadline(run) if in_time else math.inf, False

    def is_over() -> bool:  # called in several threads, so not by the run's clock
        nonlocal is_late
        is_late = is_late or run.clock.now() >= deadline
        return is_late

    with run.clock.segment("precompute"), _progress("precompute", console) as on_shard:
        write_stream(run.spec, run.train, root, epochs, on_shard, is_over=is_over, part=part, elsewhere=elsewhere)
    if is_late:
        console.print("the time for precomputing is over: what is missing is augmented while training")
    return dataclasses.replace(run, stream_grows=not is_late)


def upload(run: Run, console: Console, url: str) -> int:
    """Send the shards of a run's stream that are on this machine to a server; return how many it did not have.

    Raises what `upload_stream` raises.
    """
    with _progress("upload", console) as on_shard:
        return upload_stream(run.spec, run.config.stream.folder, url, on_shard)


@contextlib.contextmanager
def _progress(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar while the block runs; yields a function of (shards done, shards to do) that moves it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("shards"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


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
    most = stream.max_gb * 1e9 / run.spec.epoch_bytes
    if run.plan.max_steps is not None:
        most = min(most, math.ceil(run.plan.max_steps * run.config.batch_size / run.spec.samples))
    if stream.is_remote:
        return RemoteStream(run.spec, stream.root, stream.folder, run.train, int(most))
    extend = None
    # Without a time limit all epochs were planned.
    if run.config.budget.seconds is not None and run.stream_grows and is_first_rank():
        extend = functools.partial(write_stream, run.spec, run.train, stream.folder, wait=False)
    return PrecomputedStream(run.spec, stream.folder, run.train, extend, int(most), stream.verify)
