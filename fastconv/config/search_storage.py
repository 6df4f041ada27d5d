"""Where a search keeps its trials: a journal in its sweep's folder, or a database; and which search a folder has."""

import contextlib
import importlib.metadata
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastconv.config import schema
from fastconv.config.search_space import SAMPLING, Dimension
from fastconv.system.documents import read_json
from fastconv.system.errors import InputError
from fastconv.system.files import locked, write_atomically
from fastconv.system.json_text import as_json, from_json
from fastconv.system.urls import redacted

# Files of a search in its sweep's folder: what it looks for and which study it is, and the trials, if no database has
# them.
DESCRIPTION, JOURNAL = "search.json", "trials.log"
LEAST_OPTUNA = 4
EXAMPLE = "postgresql+psycopg://user@host/name"
# What to install for a driver that is missing, where that has another name.
DRIVERS = {"psycopg": "fastconv[postgresql]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def require_optuna() -> None:
    """Raise InputError if Optuna is not installed, or is too old."""
    try:
        version = importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if int(version.partition(".")[0]) < LEAST_OPTUNA:
        there = f" (there is {version})" if version != "0" else ""
        raise InputError(f"a search needs Optuna {LEAST_OPTUNA} or later{there}: pip install 'fastconv[search]'")


def require_storage(storage: str | None) -> None:
    """Raise InputError if Optuna is missing, or if the database with this URL, if any, cannot be opened."""
    require_optuna()
    if storage is None:
        return
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except ArgumentError as error:  # the text may have a password all the same
        raise InputError(f"sweep.storage is not the URL of a database, such as {EXAMPLE}") from error
    if "@" in (url.host or ""):
        raise InputError("sweep.storage has an @ in its user or password: write %40 instead")
    try:
        engine = create_engine(url)
    except ModuleNotFoundError as error:
        package = DRIVERS.get(str(error.name), error.name)
        raise InputError(
            f"sweep.storage={redacted(storage)} needs the package {error.name}: pip install '{package}'"
        ) from error
    except Exception as error:  # such as an unknown kind of database
        raise _unusable(storage, error) from error
    try:
        engine.connect().close()
    except Exception as error:  # whatever the driver of a database raises
        raise _unusable(storage, error) from error
    finally:
        engine.dispose()


def open_study(
    folder: Path, settings: schema.Sweep, space: Sequence[Dimension], fixed: dict[str, Any], parts: int
) -> Any:
    """Open the study of a search, or make it. The caller holds the search's lock.

    Args:
        parts: equal parts of the training at whose ends trials are compared.

    Raises InputError if the folder has another search, or if the storage cannot be opened.
    """
    import optuna
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    from fastconv.config.search_sampler import pruner

    name = _describe(folder, settings, space, fixed)
    storage: Any = settings.storage
    with reached(folder, settings):
        if storage is None:
            path = folder / JOURNAL
            lock: Any = _JournalLock(path)  # the base class of Optuna's locks has no public name
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        else:
            # A server may close a connection that was idle during a long training.
            storage = RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=pruner(settings.pruner, settings.startup_trials, parts),
        )


@contextlib.contextmanager
def reached(folder: Path, settings: schema.Sweep) -> Iterator[None]:
    """Within the block, an error of the storage becomes an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever the driver of a database raises
        raise _unusable(folder / JOURNAL if settings.storage is None else settings.storage, error) from error


def _unusable(storage: Path | str, error: Exception) -> InputError:
    """The error for a journal, or the database with a URL, that cannot be used."""
    where = storage if isinstance(storage, Path) else f"sweep.storage={redacted(storage)}"
    return InputError(f"{where} cannot be used: {first_line(error)}")


def first_line(error: Exception) -> str:
    """The first line of what an error says, without secrets."""
    return redacted(str(error).strip() or type(error).__name__).splitlines()[0]


def _describe(folder: Path, settings: schema.Sweep, space: Sequence[Dimension], fixed: dict[str, Any]) -> str:
    """The name of the study of a search, whose description is written if the folder has none.

    Raises InputError if the folder has another search.
    """
    path, resumed = folder / DESCRIPTION, f"sweep.resume={folder}"
    storage = None if settings.storage is None else redacted(settings.storage)
    sampling = {key: getattr(settings, key.removeprefix("sweep.")) for key in SAMPLING}
    ours: dict[str, Any] = {
        "storage": storage,
        "space": {each.key: each.written for each in space},
        "settings": from_json(as_json(sampling | fixed)),
    }
    if not path.exists():
        about = {"study": f"fastconv-{secrets.token_hex(8)}", **ours}
        write_atomically(path, as_json(about, indent=1).encode())
        return str(about["study"])
    try:
        about = read_json(path)
        study, theirs = str(about["study"]), {key: dict(about[key]) for key in ("space", "settings")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the description of a search: start a new sweep") from error
    if about.get("storage") != storage:
        given = "without sweep.storage" if about.get("storage") is None else f"with sweep.storage={about['storage']}"
        raise InputError(f"{resumed} was started {given}: give the same")
    for part, found in theirs.items():
        for key in {**found, **ours[part]}:
            if found.get(key) != ours[part].get(key):
                raise InputError(
                    f"{resumed} is another search: it has {key}={found.get(key)}, not {ours[part].get(key)}. Give the"
                    " settings that it was started with"
                )
    return study


class _JournalLock:
    """Optuna's lock of a journal, as one that the system releases when its process is killed.

    It also removes what a full disk, or a crash, has left of a line: Optuna could not read the journal any more.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._held = path, contextlib.ExitStack()

    def acquire(self) -> bool:
        with contextlib.ExitStack() as held:  # Optuna does not release what it could not acquire
            held.enter_context(locked(self._path.parent, self._path.name))
            with self._path.open("rb+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                if file.read() not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            self._held = held.pop_all()
        return True

    def release(self) -> None:
        self._held.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, Optuna says nothing of its experimental parts, nor what it logs about each trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        yield
