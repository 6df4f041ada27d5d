"""Batches that are read ahead are those that would have been read."""

import threading
import time

import pytest
import torch
from harness import noise, spec_of

from fastconv.data.batches import StreamBatches
from fastconv.data.prefetch import Prefetch
from fastconv.data.stream.spec import OnlineStream
from fastconv.system.errors import StreamError

CPU = torch.device("cpu")


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_are_the_streams(rank):
    data = noise(57, 3)
    stream = OnlineStream(spec_of(data), data)
    ahead = Prefetch(StreamBatches(stream, 16, 4, rank, 2), CPU)
    plain = StreamBatches(OnlineStream(spec_of(data), data), 16, 4, rank, 2)
    for _, (a, b) in zip(range(40), zip(ahead, plain, strict=True), strict=False):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert ahead.wait_seconds > 0


def test_it_reads_ahead_but_not_without_end():
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield torch.zeros(2), torch.zeros(2)

    batches = iter(Prefetch(endless(), CPU))
    next(batches)
    deadline = time.monotonic() + 20
    while len(read) < Prefetch.DEPTH + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert Prefetch.DEPTH < len(read) <= Prefetch.DEPTH + 2
    assert threads() == 1
    batches.close()
    assert threads() == 0, "the thread ends with its reader"


def test_the_end_and_errors_reach_the_reader():
    def two_then(error):
        yield torch.zeros(2), torch.zeros(2)
        yield torch.ones(2), torch.ones(2)
        if error:
            raise error

    assert len(list(Prefetch(two_then(None), CPU))) == 2
    batches = iter(Prefetch(two_then(StreamError("shard-0000.tar was altered")), CPU))
    next(batches), next(batches)
    with pytest.raises(StreamError, match="was altered"):
        next(batches)
    assert threads() == 0
