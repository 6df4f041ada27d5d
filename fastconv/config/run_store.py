"""Fetches the folder of a run from an object store, to go on with it or to read it."""

import glob
import secrets
import shutil
import threading
from pathlib import Path, PurePosixPath

from fastconv.data.download import copy_url, tried
from fastconv.data.url_place import Place, below
from fastconv.data.url_reader import WrongContentError
from fastconv.runs.folder import RunningElsewhereError, hold, is_finished
from fastconv.runs.results import Results
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError
from fastconv.system.files import locked, unwritable
from fastconv.system.settings import is_url
from fastconv.system.urls import redacted

ADVICE = "Check the address, the network and that you may read there"
CONFIG, RESULTS = "config.yaml", "results.json"
# More is no run.
MOST_FILES = 100_000


def copy_of(outputs: str, folder: Path) -> str | None:
    """The URL of the copy of a run's folder on this machine; None if `outputs` is not a URL."""
    return below(outputs, f"{folder.parent.name}/{folder.name}") if is_url(outputs) else None


def split_url(url: str, key: str) -> tuple[str, str, str]:
    """The folder of runs, the data set and the name of a run whose folder has a URL. Raises InputError for another."""
    outputs, dataset, name = ["", "", *url.rstrip("/").rsplit("/", 2)][-3:]
    if not outputs.partition("://")[2] or {dataset, name} & {"", "..", "."}:
        raise InputError(f"{key}={redacted(url)} is not the folder of a run: give {key}=s3://bucket/outputs/mnist/NAME")
    return outputs, dataset, name


def fetch_run(url: str, folder: Path, key: str) -> None:
    """Copy the folder of a run from a store, whole. One on this machine that is as far stays, and nothing but the
    results is copied.

    Args:
        url: of the run's folder.
        folder: where to put it on this machine.
        key: the setting that names it.

    Raises InputError for a URL without a run, one that cannot be read, or a disk that cannot be written.
    """
    from_first_rank("fetched", lambda: _fetch(url, folder, key))


def _fetch(url: str, folder: Path, key: str) -> None:
    place, closed = Place(url.rstrip("/"), key), threading.Event()
    if place.is_http:
        raise InputError(
            f"{key}={redacted(url)} is not possible: a web server does not list the files of a folder. Download it, or"
            " give that of an object store"
        )
    files = tried(lambda: _files(place, redacted(url)), redacted(url), closed, ADVICE)
    if CONFIG not in files:
        raise InputError(f"{key}={redacted(url)} is not the folder of a run: it has no {CONFIG}")
    aside = folder.with_name(f"{folder.name}.{secrets.token_hex(6)}.part")
    with locked(folder.parent, f"{folder.name}.fetch"):
        for leftover in folder.parent.glob(f"{glob.escape(folder.name)}.*.part"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.exists() and not (folder / CONFIG).exists():
            raise InputError(f"{folder}, where {redacted(url)} belongs, is not the folder of a run: move it away")
        try:
            # Results are sent last, and so fetched first: they tell of no more than the other files have.
            if RESULTS in files:
                _copy(below(url, RESULTS), aside / RESULTS, files[RESULTS], key, closed)
            if folder.exists() and _progress(folder) >= _progress(aside):
                return
            # A folder is a run by its config, and this one not before it is whole.
            for name in sorted(files.keys() - {RESULTS}, key=lambda name: (name == CONFIG, name)):
                _copy(below(url, name), aside / name, files[name], key, closed)
            if not folder.exists():
                aside.rename(folder)
                return
            if (held := hold(folder)) is None:
                raise RunningElsewhereError(folder)
            with held:
                shutil.rmtree(folder)
                aside.rename(folder)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _files(place: Place, shown: str) -> dict[str, int]:
    """The sizes in bytes of the files of a folder, by their paths there. `shown` is its URL for messages."""
    place.system.invalidate_cache()
    root = place.path.rstrip("/")
    found: dict[str, int] = {}
    for path, about in place.system.find(place.path, detail=True).items():
        name = path.removeprefix(root).lstrip("/")
        if not path.startswith(root) or ".." in PurePosixPath(name).parts or len(found) == MOST_FILES:
            raise InputError(f"{shown} is not the folder of a run")
        found[name] = int(about["size"])
    return found


def _copy(url: str, path: Path, size: int, key: str, closed: threading.Event) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)

    def check(digest: str) -> None:
        if (found := path.stat().st_size) != size:
            raise WrongContentError(f"it has {found:,} bytes instead of {size:,}")

    copy_url(url, key, path, size, closed, ADVICE, check)


def _progress(folder: Path) -> tuple[bool, int]:
    """How far a run has come: whether it is finished, and its steps; -1 if it has not noted them."""
    try:
        return is_finished(folder), Results.read(folder).steps or 0
    except (OSError, ValueError, KeyError):
        return False, -1
