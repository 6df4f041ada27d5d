"""Commands whose output nobody reads, as in `predict out=- | head -1`."""

import errno
import os
import select
import subprocess
import sys

import pytest

from fastconv.analysis.prediction_files import write_predictions
from fastconv.system.errors import InputError
from fastconv.system.terminal import ends_with_its_reader

COMMAND = """
from fastconv.system.terminal import ends_with_its_reader

@ends_with_its_reader
def main():
    for _ in range({lines}):
        print("x" * 99)

main()
"""
# Windows has no poll, and its pipes may fail in another way.
NO_POLL = """
import select
del select.poll
"""
INVALID = """
import errno, io, sys

class Pipe(io.FileIO):
    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            raise OSError(errno.EINVAL, "Invalid argument") from None

sys.stdout = io.TextIOWrapper(io.BufferedWriter(Pipe(1, "w", closefd=False)))
"""


@pytest.mark.parametrize("system", ["", NO_POLL, NO_POLL + INVALID], ids=["posix", "windows", "windows, EINVAL"])
@pytest.mark.parametrize("lines", [1, 10_000])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_it_ends_quietly(lines, system, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", system + COMMAND.format(lines=lines)]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=120, env=environment)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("has_poll", [True, False])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL])
def test_a_broken_pipe_elsewhere_is_an_error(monkeypatch, number, has_poll):
    if not has_poll:
        monkeypatch.delattr(select, "poll")

    @ends_with_its_reader
    def main():
        raise OSError(number, "a server's")

    with pytest.raises(OSError, match="a server's"):
        main()


def test_predictions_need_an_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match="standard output is closed: give a file"):
        write_predictions(None, ["a.png"], "-")
