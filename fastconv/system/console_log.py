"""Keeps what a command says on the console in a file of a run's folder, as plain text, line by line."""

import os
import re
import stat
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from fastconv.system.errors import warn
from fastconv.system.urls import redacted

FILE = "log.txt"
# What steers a terminal: colours, and movements of the cursor.
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# Lines that are kept until the folder of the run is known.
MOST_LINES = 10_000


class ConsoleLog:
    """The lines of a command. They are kept in memory until a folder is known, then in its `log.txt`."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._file: TextIO | None = None
        self._failed = False

    def keep_in(self, folder: Path) -> None:
        """Append the lines so far, and all that follow, to the folder's `log.txt`; a link there is not followed."""
        if self._file is not None or self._failed:
            return
        path = folder / FILE
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(path, flags, 0o666)
            self._file = open(descriptor, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "it is not a regular file")
        except OSError as error:
            self._give_up(error)
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self.add(line)

    def add(self, line: str) -> None:
        """Add a line as the console got it."""
        text = ESCAPES.sub("", redacted(line)).rpartition("\r")[2]
        if self._failed:
            return
        if self._file is None:
            self._waiting = [*self._waiting[1 - MOST_LINES :], text]
            return
        try:
            self._file.write(f"{text}\n")
        except OSError as error:
            self._give_up(error)

    def begin_anew(self) -> None:
        """Forget the lines so far, and the folder: what follows is of another run."""
        self.close()
        self._waiting, self._failed = [], False

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None

    def _give_up(self, error: OSError) -> None:
        self._failed = True
        self.close()
        warn(f"cannot write {FILE}, so what the console says is not kept: {error.strerror or error}. The run goes on")


class _Tee:
    """A stream of the console that also hands its whole lines to a log; in all else it is the stream itself."""

    def __init__(self, stream: Any, log: ConsoleLog) -> None:
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        written: int = self._stream.write(text)
        *lines, rest = (self._line + text).split("\n")
        # Of a line that is drawn again and again, such as a progress bar, only the last drawing is kept.
        self._line = rest if "\r" not in rest.rstrip("\r") else "\r" + rest.rstrip("\r").rpartition("\r")[2]
        for line in lines:
            self._log.add(line.rstrip("\r"))
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# The log of the command that runs in this process. Commands run one at a time.
_log: ConsoleLog | None = None


@contextmanager
def console_logged() -> Iterator[None]:
    """Within the block, hand what is printed to a log; an error that the block does not catch is in it too."""
    global _log
    before, streams = _log, (sys.stdout, sys.stderr)
    _log = log = ConsoleLog()
    tees: Any = [stream if stream is None else _Tee(stream, log) for stream in streams]
    sys.stdout, sys.stderr = tees
    try:
        yield
    except Exception:  # its traceback is printed when the process ends
        for line in traceback.format_exc().splitlines():
            log.add(line)
        raise
    finally:
        if sys.stdout is tees[0]:
            sys.stdout = streams[0]
        if sys.stderr is tees[1]:
            sys.stderr = streams[1]
        log.close()
        _log = before


def keep_log_in(folder: Path) -> None:
    """Keep what the running command says in a run's folder. Outside a command, as in a notebook, nothing is kept."""
    if _log is not None:
        _log.keep_in(folder)


def begin_log_anew() -> None:
    """Begin the log of a further run of the same command."""
    if _log is not None:
        _log.begin_anew()
