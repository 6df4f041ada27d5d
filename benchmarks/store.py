"""Measures how fast a stream is read from a server whose connections are slow, against the bare bytes.

python benchmarks/store.py          about a minute, and 2 GB of the disk for temporary files

The server is a process of its own on this machine, slow_server.py. For 40,000 images (123 MB) a second, three of its
connections at least must be read at once.
"""

import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from unittest import mock

import numpy as np
from measurements import Table
from slow_server import served
from stream import BATCH_SIZE, MICRO_BATCH_SIZE, touch

from fastconv.data.augment.policy import Policy
from fastconv.data.batches import StreamBatches
from fastconv.data.dataset import ImageData
from fastconv.data.stream import remote
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.remote import MOST_AHEAD, RemoteStream
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.stream.writer import write_stream

ROUNDS = 3
STORE = Table("store", "Reading a stream from a server of 50 MB/s a connection and 30 ms", "images/s", ours="fastconv")
RAW = f"the bare bytes, on {MOST_AHEAD} connections at once"
SAMPLES, EPOCHS = 50_000, 6


def noise(samples: int) -> tuple[StreamSpec, ImageData]:
    """Images uint8 [samples, 32, 32, 3] that no filter compresses, and the stream of them as they are."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (samples, 32, 32, 3), np.uint8)
    classes = tuple("0123456789")
    data = ImageData("noise", pixels, generator.integers(0, len(classes), samples), classes, digest="0" * 64)
    mean, std = (0.5,) * 3, (0.3,) * 3
    return StreamSpec("noise", data.digest, classes, (32, 32, 3), samples, mean, std, Policy(), seed=0), data


def read(spec: StreamSpec, port: int, epochs: int) -> float:
    """Images per second of a training's batches, all bytes read and all sums checked, and nothing computed instead."""
    with tempfile.TemporaryDirectory() as cache, mock.patch.object(remote, "FIRST_WAIT_SECONDS", 60):
        started = time.perf_counter()
        stream = RemoteStream(spec, f"http://127.0.0.1:{port}", Path(cache), None, epochs)
        batches = iter(StreamBatches(stream, BATCH_SIZE, MICRO_BATCH_SIZE))
        count = epochs * spec.samples // BATCH_SIZE
        for _ in range(count):
            touch(next(batches)[0])
        seconds = time.perf_counter() - started
        stream.close()
    return count * BATCH_SIZE / seconds


def read_raw(spec: StreamSpec, port: int, names: list[str]) -> float:
    """Images per second if the bytes of all shards are received and dropped."""
    left = iter(names)
    lock = threading.Lock()

    def work() -> None:
        connection, buffer = HTTPConnection("127.0.0.1", port), bytearray(2**20)
        while True:
            with lock:
                name = next(left, None)
            if name is None:
                return connection.close()
            connection.request("GET", f"/{spec.folder}/{name}")
            answer = connection.getresponse()
            while answer.readinto(buffer):
                pass

    threads = [threading.Thread(target=work) for _ in range(MOST_AHEAD)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(names) / len(spec.shards()) * spec.samples / (time.perf_counter() - started)


def main() -> None:
    spec, data = noise(SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        written = write_stream(spec, data, Path(folder), EPOCHS)
        names = sorted(Manifest.read(written, spec).shards)
        with served(Path(folder)) as port:
            for number in range(ROUNDS):
                if STORE.lacks(number, "fastconv", RAW):
                    STORE.add(number, "fastconv", read(spec, port, EPOCHS))
                    STORE.add(number, RAW, read_raw(spec, port, names))
    STORE.show(
        note=f"{EPOCHS * SAMPLES:,} images of 32x32x3 from their first byte on, the first shards one by one; with sums"
        " checked, a copy kept on the disk, and every byte of every batch read."
    )


if __name__ == "__main__":
    main()
