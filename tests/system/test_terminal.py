"""Commands whose output nobody reads, as in `predict out=- | head -1`, and those that Ctrl-C ends at their start."""

import errno
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY

from fastconv.analysis.prediction_files import write_predictions
from fastconv.system.errors import InputError
from fastconv.system.terminal import ends_with_its_reader

COMMAND = """
from fastconv.system.terminal import ends_with_its_reader, rich_console

@ends_with_its_reader
def main():
    for _ in range({lines}):
        {say}("x" * 99)

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
@pytest.mark.parametrize("lines", [1, 1000])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("say", ["print", "rich_console().print"])
def test_it_ends_quietly(lines, system, unbuffered, say):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", system + COMMAND.format(lines=lines, say=say)]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=120, env=environment)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("lines", [1, 10_000])
def test_output_to_a_full_disk_is_one_line(lines):
    """Python writes a few lines at the end of the command alone, and many before."""
    command = [sys.executable, "-c", COMMAND.format(lines=lines, say="print")]
    with FULL.open("w") as output:
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=120, env=environment)
    assert ended.returncode == 1
    if lines == 1:
        assert ended.stderr == "fastconv: cannot write the output: No space left on device\n"
    else:  # the body of a command says it
        assert ended.stderr.splitlines()[-1] == "OSError: [Errno 28] No space left on device"


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


AS_INSTALLED = "import sys; from fastconv.__main__ import main; sys.argv = ['fastconv', 'train']; main()"


@pytest.mark.parametrize(
    ("command", "is_ours"),
    [
        (["-m", "fastconv.train", "seed=1"], True),
        (["-m", "fastconv", "train"], True),
        (["-c", AS_INSTALLED], True),
        (["-m", "theirs"], False),
    ],
)
def test_ctrl_c_while_a_command_is_imported_is_one_line(tmp_path, command, is_ours):
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "__init__.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "theirs.py").write_text("import fastconv, hydra")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths}
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=120)
    assert ended.returncode == -signal.SIGINT
    if is_ours:
        assert ended.stderr == "fastconv: ended by SIGINT\n"
    else:
        assert "Traceback" in ended.stderr
        assert "fastconv: " not in ended.stderr
