"""How long the command of this process has been running: the start of Python and all imports are part of it."""

import os
import time
from contextlib import suppress
from pathlib import Path

# A process that began longer before its first import of fastconv did other things first, such as a shell script that
# ends with `exec python`. Python itself starts in 0.1 s, or in about 1 s on a busy machine.
LONGEST_START = 10.0

_imported = time.monotonic()
_began: float | None = None


def process_start() -> float:
    """The monotonic time in seconds at which this process began.

    Where the system does not say (elsewhere than on Linux), the time at which fastconv was imported.
    """
    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = start_ticks()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        began = time.monotonic() - age
        if _imported - LONGEST_START <= began <= _imported:
            return began
    return _imported


def start_ticks(process: int | str = "self") -> int:
    """The clock ticks from the start of the system to that of a process; two of one number differ in them.

    Raises OSError where the system does not say, elsewhere than on Linux.
    """
    return _field(process, 22)


def parent_of(process: int) -> int:
    """The number of the process that started another one; 0 where the system does not say."""
    with suppress(OSError):
        return _field(process, 4)
    return 0


def descendants(argument: str) -> list[int]:
    """The processes that this one, or one that it started, has started with an argument on their command lines. None
    where the system does not say, and none that have ended."""
    return [process for process in _processes() if argument in _arguments(process) and os.getpid() in _above(process)]


def _processes() -> list[int]:
    with suppress(OSError):
        return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    return []


def _arguments(process: int) -> list[str]:
    with suppress(OSError):
        return os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes()).split("\0")
    return []


def _above(process: int) -> list[int]:
    """The process that started one, the one that started that, and so on."""
    above = []
    while process := parent_of(process):
        above.append(process)
    return above


def setter_of(variable: str) -> str:
    """The name of the closest process above this one that began without this one's value of an environment variable:
    what has set it. Empty where the system does not say, and if all have begun with it."""
    value = os.environ.get(variable)
    setter = next((each for each in _above(os.getpid()) if _variable(each, variable) != value), None)
    with suppress(OSError):
        return Path(f"/proc/{setter}/comm").read_text("utf-8", "replace").strip() if setter else ""
    return ""


def _variable(process: int, name: str) -> str | None:
    """An environment variable with which a process began; None without it, and of processes of other users."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
            if line.startswith(prefix := os.fsencode(f"{name}=")):
                return os.fsdecode(line[len(prefix) :])
    return None


def _field(process: int | str, number: int) -> int:
    """A field of proc(5), from the third one on."""
    return int(Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[number - 3])


def begin_command() -> None:
    """Note that this process was started for the command that it now begins."""
    global _began
    _began = process_start()


def take_start_seconds() -> float:
    """Seconds since the process began, for the command that it was started for.

    Only the first call finds them: a later job of a sweep, or a command that other code calls, begins when it is
    called, so it gets 0.
    """
    global _began
    began, _began = _began, None
    return 0.0 if began is None else time.monotonic() - began
