"""Runs a command for a limited time, and ends all that it has started."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress

# Seconds until a process that is told to end is ended.
PATIENCE = 5
# Characters of a command's errors that are shown.
SHOWN = 4000


def in_time(command: list[str], seconds: float) -> str | None:
    """Run a command; return None if it ends well, else what happened, and show the end of its errors.

    It is ended after some seconds, with all processes that it has started: they would go on using the GPU.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        errors.seek(0)
        text = errors.read()
    if code == 0:
        return None
    if text:
        print(text[-SHOWN:], file=sys.stderr, flush=True)
    if code is None:
        return f"stopped after {seconds:.0f} s"
    lines = [line for line in text.splitlines() if line.strip()] or ["no message"]
    return f"failed with exit code {code}: {lines[-1][:500]}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, whether or not it has ended itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # none is left
            break
        if number == signal.SIGTERM:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
    process.wait()
