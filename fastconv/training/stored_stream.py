"""The images of a run's stream, and the writing of it. Without torch: a process that only writes starts soon."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastconv.config.schema import Config
from fastconv.data import configs
from fastconv.data.augment.plan import BalancedSampling
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits, set_aside
from fastconv.data.stream.cache import prune, stored_streams
from fastconv.data.stream.parts import WHOLE, Part
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.stream.upload import upload_stream
from fastconv.data.stream.writer import write_stream
from fastconv.system.errors import InputError


def training_images(config: Config, data: Splits) -> tuple[ImageData, ImageData]:
    """The images that a run trains on, drawn as its objective asks, and those, if any, that it sets aside to fit the
    temperature on."""
    train, unseen = data.train, data.holdout
    if config.label_smoothing and not len(data.holdout):
        train, unseen = set_aside(train, config.calibration_images)
    if config.objective != "accuracy" and len(set(np.bincount(train.labels).tolist()) - {0}) > 1:
        # Within few epochs, class weights in the loss gained less or nothing, and adjusted logits nothing; weights were
        # better after many (benchmarks/results/imbalance.md).
        train = dataclasses.replace(train, sampling=BalancedSampling(train.labels))
    return train, unseen


def write_epochs(
    stream: configs.Stream,
    spec: StreamSpec,
    train: ImageData,
    epochs: int,
    console: Console,
    is_over: Callable[[], bool] = lambda: False,
    part: Part = WHOLE,
    elsewhere: Collection[str] = (),
) -> None:
    """Write those epochs of a stream in a folder that are missing.

    Args:
        is_over: called in several threads; once it says True, no more is written.
        part: which of the epochs to write.
        elsewhere: names of shards that are on a server, and not to be written.

    Raises InputError for too little disk space, StreamError for a damaged stream.
    """

    def waiting(whom: str) -> None:
        console.print(f"waiting for {whom}", highlight=False, markup=False)

    root = stream.folder
    with _progress("precompute", console) as on_shard:
        write_stream(
            spec, train, root, epochs, on_shard, is_over=is_over, part=part, elsewhere=elsewhere, on_wait=waiting
        )


def make_room(stream: configs.Stream, spec: StreamSpec, epochs: int, console: Console) -> None:
    """Remove old streams until `epochs` epochs of this one fit in `stream.max_gb`.

    Raises InputError if the stream is larger than that already.
    """
    root = stream.folder
    there = sum(stored.bytes for stored in stored_streams(root) if stored.folder.name == spec.folder)
    room = stream.max_bytes - max(there, epochs * spec.epoch_bytes)
    if room < 0:
        raise InputError(
            f"{root / spec.folder} has {there / 1e9:.3g} GB, more than stream.max_gb={stream.max_gb:g}."
            " Raise it, remove the folder, or use stream=online"
        )
    for stored in prune(root, room, keep=spec.folder):
        console.print(f"removed the old stream {stored.folder}", highlight=False, markup=False)


def upload(stream: configs.Stream, spec: StreamSpec, console: Console, url: str) -> int:
    """Send the shards of a stream that are on this machine to a server; return how many it did not have.

    Raises what `upload_stream` raises.
    """
    with _progress("upload", console) as on_shard:
        return upload_stream(spec, stream.folder, url, on_shard)


@contextlib.contextmanager
def _progress(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar while the block runs; yields a function of (shards done, shards to do) that moves it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("shards"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
