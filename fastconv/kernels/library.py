"""Builds a file of C with the machine's own compiler, once for all processes of a user, and loads it."""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastconv.system.errors import InputError, message_of
from fastconv.system.files import locked, read_file, write_atomically

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")
# The processor of this machine, whose features the cache's key names.
NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native"}
# A build takes 4 s on a quiet machine; one that takes longer than this is not worth waiting for.
BUILD_SECONDS = 120
DIGEST_DIGITS = 32
# Lines of /proc/cpuinfo that tell processors apart.
FEATURES = ("model name", "flags", "Features", "CPU part")


class UnavailableError(Exception):
    """There is no library here; the message says why in a few words."""


def load_library(source: Path, trial: str | None = None) -> ctypes.CDLL:
    """Load the library of a file of C, which is built unless the user's cache has it.

    The cache is `fastconv` in XDG_CACHE_HOME, or `~/.cache`. A library in it has a name of the digests of its source
    and the headers beside it, of the compiler, of the processor's features, and of its own content: a damaged one is
    built anew. Where the cache cannot be written, or others could write to it, the library is built in a temporary
    folder, for this process alone; so it is where code in the cache cannot be executed.

    Args:
        source: the file of C, which may include headers of its folder.
        trial: Python code that calls the library whose path is its first argument. It is run once for a build, in a
            process of its own: an instruction that the processor lacks ends that one, and not this.

    Raises UnavailableError where that is not possible either, or if the trial fails.
    """
    if os.name != "posix":
        raise UnavailableError("it is for Linux and macOS")
    compiler = find_compiler()
    try:
        files = (source, *sorted(source.parent.glob("*.h")))
        contents = [file.read_bytes().hex() for file in files]
    except OSError as error:
        raise UnavailableError(f"{source.name} cannot be read ({error.strerror})") from error
    key = [*contents, *compiler, *FLAGS, _version(compiler), processor_features()]
    name = f"{source.stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:DIGEST_DIGITS]}"
    with contextlib.suppress(OSError, InputError):
        if (folder := private_folder()) and may_execute(folder):
            found = _stored(folder, name)
            if found is None:
                with locked(folder, name):
                    found = _stored(folder, name) or _store(build(compiler, source), folder, name)
            if trial is not None:
                _try_once(trial, found)
            return ctypes.CDLL(str(found))
    try:
        with tempfile.TemporaryDirectory(prefix="fastconv-") as temporary:
            found = _store(build(compiler, source), Path(temporary), name)
            if trial is not None:
                _try(trial, found)
            return ctypes.CDLL(str(found))
    except (OSError, InputError) as error:
        raise UnavailableError(f"a library cannot be loaded ({message_of(error, 200)})") from error


def find_compiler() -> list[str]:
    """The command of the C compiler: that of the variable CC, else the system's. Raises UnavailableError for none."""
    given = os.environ.get("CC", "")
    try:
        named = shlex.split(given)
    except ValueError:
        named = []
    for command in [named] if given.strip() else [[name] for name in COMPILERS]:
        if command and shutil.which(command[0]):
            return command
    raise UnavailableError(f"CC={given} is no compiler" if given.strip() else "there is no C compiler, such as gcc")


def build(compiler: list[str], source: Path) -> bytes:
    """Compile a file of C; return the library. Raises UnavailableError if the compiler fails."""
    with contextlib.ExitStack() as opened:
        try:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="fastconv-"))
            built = Path(folder, "library")
            native = NATIVE.get(platform.machine(), "-mcpu=native")
            _run([*compiler, *FLAGS, native, "-o", str(built), str(source)])
            return built.read_bytes()
        except OSError as error:
            raise UnavailableError(f"the C compiler cannot be run ({error.strerror or error})") from error


def private_folder() -> Path | None:
    """The folder of the user's cache, which is created if need be; None if others own it or may write to it, or for a
    user without a home. Raises OSError if it cannot be created."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "fastconv"
    except RuntimeError:
        return None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    is_private = about.st_uid == os.geteuid() and not about.st_mode & 0o022
    return folder if is_private else None


def may_execute(folder: Path) -> bool:
    """Whether code of a folder may be executed: not if its file system is mounted `noexec`, as some homes are."""
    return not hasattr(os, "ST_NOEXEC") or not os.statvfs(folder).f_flag & os.ST_NOEXEC  # Linux alone says so


def is_own_file(path: Path) -> bool:
    """Whether this is a regular file of the user, to which nobody else may write. Raises OSError if it is not there."""
    about = path.lstat()
    return stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022


def processor_features() -> str:
    """The processor's name and features: a library for others may not run here."""
    lines = []
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        lines = sorted({line for line in text.splitlines() if line.split(":")[0].strip() in FEATURES})
    return repr([platform.system(), platform.machine(), platform.processor(), *lines])


def _stored(folder: Path, name: str) -> Path | None:
    """The library of this name in the cache, if it is whole."""
    for path in folder.glob(f"{name}-*.so"):
        with contextlib.suppress(OSError):
            if is_own_file(path) and path.name == _named(name, path.read_bytes()):
                return path
    return None


def _store(library: bytes, folder: Path, name: str) -> Path:
    path = folder / _named(name, library)
    write_atomically(path, library)
    path.chmod(0o700)
    return path


def _try_once(trial: str, library: Path) -> None:
    """Try a library of the cache, unless a file beside it says that the same trial went well."""
    done = library.with_suffix(".tried")
    digest = hashlib.sha256(trial.encode()).hexdigest().encode()
    with contextlib.suppress(OSError, InputError):
        if read_file(done, len(digest)) == digest:
            return
    _try(trial, library)
    with contextlib.suppress(InputError):  # the next process tries again
        write_atomically(done, digest)


def _try(trial: str, library: Path) -> None:
    """Run a trial in a process of its own. Raises UnavailableError if it fails."""
    command = [sys.executable, "-I", "-S", "-c", trial, str(library)]
    try:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=BUILD_SECONDS,
        ).returncode  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"the library cannot be tried ({type(error).__name__})") from error
    if code:
        raise UnavailableError(f"the library fails when it is tried ({_ending(code)})")


def _ending(code: int) -> str:
    """How a process ended, from its return code."""
    with contextlib.suppress(ValueError):
        if code < 0:
            return signal.Signals(-code).name
    return f"exit code {code}"


def _named(name: str, library: bytes) -> str:
    return f"{name}-{hashlib.sha256(library).hexdigest()[:DIGEST_DIGITS]}.so"


def _version(compiler: list[str]) -> str:
    try:
        return _run([*compiler, "--version"])
    except OSError as error:
        raise UnavailableError(f"the C compiler cannot be run ({error.strerror or error})") from error


def _run(command: list[str]) -> str:
    """The output of a command. Raises UnavailableError, with the first line of its error, if it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=BUILD_SECONDS, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the C compiler took more than {BUILD_SECONDS} s") from error
    if done.returncode:
        lines: Iterator[str] = (line for line in done.stderr.splitlines() if "error" in line)
        why = " ".join(next(lines, done.stderr).split())[:200] or _ending(done.returncode)
        raise UnavailableError(f"the C compiler fails: {why}")
    return done.stdout
