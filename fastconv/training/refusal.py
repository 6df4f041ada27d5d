"""Removes the folder of a new run that is refused before its first step: nothing half-written stays."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastconv.config.resume import RunFolder
from fastconv.runs.results import Results
from fastconv.system.console_log import begin_log_anew
from fastconv.system.distributed import all_know, lost_rank, started_together
from fastconv.system.errors import InputError, is_of_memory
from fastconv.system.files import is_of_files

# What a run writes before its first step; `config.yaml`, by which a folder is a run, goes first. A folder with anything
# else, such as files of a user's own logger, stays.
FILES = ("config.yaml", "results.json", "splits.json", "metrics.csv", "hparams.yaml", "log.txt", ".agent")
WRITTEN = (*FILES, ".lock", "events.out.tfevents.*")


def is_refused(folder: RunFolder, error: BaseException) -> bool:
    """Whether bad input, or too little memory, ended a new run before its first step: nothing in its folder is worth
    keeping.

    Not a run that a signal ended, which can go on, nor one that another rank may still take part in.
    """
    is_outside = isinstance(error, InputError) or is_of_files(error) or is_of_memory(error)
    if not folder.is_new or folder.has_trained or not is_outside:
        return False
    # Ranks that Lightning has started are ended before this; those of a launcher end if they know of the error.
    if (started_together() and not all_know(error)) or (error.__cause__ and lost_rank(error.__cause__)):
        return False
    try:
        return not _steps(folder) and all(any(map(path.match, WRITTEN)) for path in folder.path.iterdir())
    except (OSError, ValueError, KeyError):  # what cannot be read may be of worth
        return False


def _steps(folder: RunFolder) -> int:
    """The number of steps in a run's results; 0 if it has no results yet."""
    try:
        return Results.read(folder.path).steps or 0
    except FileNotFoundError:
        return 0


@contextmanager
def removed_if_refused(folder: RunFolder) -> Iterator[None]:
    """Within the block, remove a run's folder if the run is refused. Files that cannot be removed stay."""
    try:
        yield
    except BaseException as error:
        if is_refused(folder, error):
            begin_log_anew()  # closes the file
            with suppress(OSError):
                _remove(folder)
        raise


def _remove(folder: RunFolder) -> None:
    """Remove the files that a run writes before its first step, and its folder."""
    for name in FILES:
        (folder.path / name).unlink(missing_ok=True)
    for path in folder.path.glob(WRITTEN[-1]):
        path.unlink()
    folder.close()  # no process looks for a lock where there is no config
    Path(folder.path, ".lock").unlink(missing_ok=True)
    folder.path.rmdir()
