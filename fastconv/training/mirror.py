"""Copies the folder of a run to an object store after each checkpoint and at the end."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from fastconv.config.resume import RunFolder
from fastconv.config.run_store import copy_of
from fastconv.config.schema import Config
from fastconv.data.download import AbsentError, RefusedError
from fastconv.data.sending import remove_file, send_file
from fastconv.data.url_place import below
from fastconv.runs.folder import CHECKPOINT
from fastconv.system.distributed import from_first_rank, is_first_rank
from fastconv.system.errors import InputError, reason, warn
from fastconv.system.urls import redacted
from fastconv.training.refusal import is_refused

# Seconds between two checks for a new checkpoint.
POLL_SECONDS = 1.0
# These files are sent after all others, in this order: where the results are, everything else of the run is too.
LAST = ("config.yaml", CHECKPOINT, "results.json")
ADVICE = "Check outputs, its bucket and that you may write to it"


class Mirror:
    """A copy of a run's folder behind a URL. Only files that have changed are sent, each whole.

    Args:
        folder: the run's folder.
        url: of the copy, of any protocol that fsspec can write to.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self._sent: dict[str, tuple[int, int]] = {}  # the time (ns) and the size (bytes) of each file when it was sent
        self._closed = threading.Event()
        self._has_warned = False

    def begin(self) -> None:
        """Send what there is before training. Raises InputError if the store will refuse all that it is sent."""
        self.send_or_warn(raised=(AbsentError, RefusedError))

    def send_or_warn(self, raised: tuple[type[Exception], ...] = ()) -> None:
        """Send what has changed. The first failure is a warning.

        Args:
            raised: types of failures that are raised instead.
        """
        try:
            self.send()
        except raised:
            raise
        except (InputError, OSError) as error:  # the run is not to end for it
            if not self._has_warned:
                warn(f"{reason(error)}. The run goes on, and sends it with the next checkpoint")
            self._has_warned = True

    def send(self) -> None:
        """Send what has changed. Raises InputError for a file that cannot be sent."""
        paths = (Path(parent, name) for parent, _, names in os.walk(self.folder) for name in names)
        names = [path.relative_to(self.folder).as_posix() for path in paths if path.is_file()]
        names = [name for name in names if not name.endswith(".part") and not name.startswith(".")]
        for name in sorted(names, key=lambda name: (LAST.index(name) + 1 if name in LAST else 0, name)):
            path = self.folder / name
            try:
                about = path.stat()
            except FileNotFoundError:  # replaced or removed meanwhile
                continue
            if self._sent.get(name) == (version := (about.st_mtime_ns, about.st_size)):
                continue
            try:
                send_file(path, below(self.url, name), "outputs", self._closed, ADVICE)
            except AbsentError:
                if path.exists():
                    raise
            else:
                self._sent[name] = version

    def remove(self) -> None:
        """Remove what was sent, or warn that it is still there."""
        try:
            for name in reversed(list(self._sent)):  # without a config, the rest is no run
                remove_file(below(self.url, name), "outputs", self._closed, "Remove the folder there yourself")
                del self._sent[name]
        except (InputError, OSError) as error:
            warn(reason(error))


def copied(config: Config, folder: RunFolder, console: Console) -> AbstractContextManager[None]:
    """Copy a run's folder within the block, as `mirrored` does, if `outputs` is a URL; on the first rank.

    Raises InputError at once for a store that refuses what it is sent, such as one that may only be read.
    """
    if (url := copy_of(config.outputs, folder.path)) is None:
        return nullcontext()
    mirror = Mirror(folder.path, url)
    try:
        from_first_rank("copied", mirror.begin)
    except InputError as error:
        if is_refused(folder, error):
            mirror.remove()
        raise
    return mirrored(mirror, console, functools.partial(is_refused, folder)) if is_first_rank() else nullcontext()


@contextmanager
def mirrored(
    mirror: Mirror, console: Console, is_void: Callable[[BaseException], bool] = lambda error: False
) -> Iterator[None]:
    """Within the block, copy a run's folder after each checkpoint, and all of it at the end of the block.

    A copy that fails meanwhile is a warning. Raises InputError for one that fails at the end of a run that did not.

    Args:
        is_void: says of an error that ends the block whether nothing of the run is to stay, here or in the copy.
    """
    ended = threading.Event()

    def watch() -> None:
        seen = 0
        while not ended.wait(POLL_SECONDS):
            try:
                now = (mirror.folder / CHECKPOINT).stat().st_mtime_ns
            except OSError:
                continue
            if now != seen:
                seen = now
                mirror.send_or_warn()

    thread = threading.Thread(target=watch, name="mirror", daemon=True)
    thread.start()
    failed: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failed = error
        raise
    finally:
        ended.set()
        thread.join()
        if failed and is_void(failed):
            mirror.remove()
        else:
            _send_at_end(mirror, console, failed is not None)


def _send_at_end(mirror: Mirror, console: Console, has_failed: bool) -> None:
    """Send what is left. Raises InputError if that fails; after a run that has failed itself, it is a warning."""
    try:
        mirror.send()
        console.print(f"copied to {redacted(mirror.url)}", highlight=False, markup=False, soft_wrap=True)
    except (InputError, OSError) as error:
        line = f"{reason(error)}. The run is whole in {mirror.folder}: copy it from there"
        if not has_failed:
            raise InputError(line) from error
        warn(line)
