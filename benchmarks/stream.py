"""Measures how fast training images come from disk: shards against WebDataset with one png and one cls a sample.

python benchmarks/stream.py          about a minute; the data sets are looked for in FASTCONV_DATA
"""

import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import webdataset
from bare_loop import plan
from measurements import Table
from PIL import Image

from fastconv.data.batches import StreamBatches
from fastconv.data.dataset import ImageData
from fastconv.training.plan import Run
from fastconv.training.run_stream import open_stream

ROUNDS = 7
STREAM = Table("stream", "Reading the training stream: one process, 32x32x3", "images/s", ours="fastconv")
PER_IMAGE = "WebDataset, png and cls per image"
BATCH_SIZE, MICRO_BATCH_SIZE = 512, 128
PNG_IMAGES = 10_000


def touch(images: torch.Tensor) -> int:
    """Read every byte: a memory-mapped batch may not have been read yet."""
    return int(images.reshape(-1).view(torch.int64).sum())


def read_shards(run: Run) -> float:
    """Images per second over an epoch, checksums included, with the file in the system's cache."""
    stream = open_stream(run)
    batches = iter(StreamBatches(stream, BATCH_SIZE, MICRO_BATCH_SIZE))
    count = run.spec.samples // BATCH_SIZE
    started = time.perf_counter()
    for _ in range(count):
        touch(next(batches)[0])
    seconds = time.perf_counter() - started
    stream.close()
    return count * BATCH_SIZE / seconds


def write_pngs(data: ImageData, folder: Path) -> str:
    """The usual shard: an encoded image and a class per sample."""
    with webdataset.TarWriter(str(folder / "png.tar")) as writer:
        for row in range(PNG_IMAGES):
            file = io.BytesIO()
            Image.fromarray(data.images[row]).save(file, "png")
            writer.write({"__key__": f"{row:06d}", "png": file.getvalue(), "cls": int(data.labels[row])})
    return str(folder / "png.tar")


def read_pngs(url: str) -> float:
    """Images per second of the usual pipeline, in this process."""
    samples = webdataset.WebDataset(url, shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    started = time.perf_counter()
    for images, _ in samples.batched(MICRO_BATCH_SIZE):
        touch(torch.from_numpy(np.stack(images)))
    return PNG_IMAGES / (time.perf_counter() - started)


def main() -> None:
    run = plan("dataset=cifar10", "schedule.max_epochs=1", "budget.seconds=null")
    with tempfile.TemporaryDirectory() as folder:
        pngs = write_pngs(run.train, Path(folder))
        for number in range(ROUNDS):
            if STREAM.lacks(number, "fastconv", PER_IMAGE):
                STREAM.add(number, "fastconv", read_shards(run))
                STREAM.add(number, PER_IMAGE, read_pngs(pngs))
    STREAM.show(note="Every byte of every batch is read; fastconv's figure includes the check of each shard's sha256.")


if __name__ == "__main__":
    main()
