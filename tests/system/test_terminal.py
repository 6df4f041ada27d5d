"""Commands whose output nobody reads, as in `predict out=- | head -1`."""

import os
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


@pytest.mark.parametrize("lines", [1, 10_000])
def test_it_ends_quietly(lines):
    reading, writing = os.pipe()
    os.close(reading)
    code = COMMAND.format(lines=lines)
    try:
        ended = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, timeout=120)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_broken_pipe_elsewhere_is_an_error():
    @ends_with_its_reader
    def main():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        main()


def test_predictions_need_an_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match="standard output is closed: give a file"):
        write_predictions(None, ["a.png"], "-")
