"""Finds the run to resume: by its folder, as the newest with a configuration, or as the job of a sweep."""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fastconv.config.places import from_anywhere
from fastconv.config.quoting import key_of
from fastconv.config.restart import begun_by_agent, keep_agent
from fastconv.config.run_settings import as_yaml, hparams, located
from fastconv.config.run_store import fetch_run, split_url
from fastconv.config.schema import Config
from fastconv.config.store import stored
from fastconv.config.trust import require_ours
from fastconv.runs.collection import run_folders
from fastconv.runs.folder import (
    CHECKPOINT,
    RunningElsewhereError,
    hold,
    is_finished,
    is_over,
    new_run_folder,
    write_config,
)
from fastconv.runs.hparams import is_location
from fastconv.runs.results import Results
from fastconv.system.distributed import agent, from_first_rank, is_first_rank, started_together
from fastconv.system.errors import InputError, message_of, reason
from fastconv.system.first_files import files_from_first_rank
from fastconv.system.settings import is_url
from fastconv.system.signals import raise_received
from fastconv.system.targets import require_trust, targets_in
from fastconv.system.urls import is_redacted, redact

# The files of a run that it goes on from.
GOES_ON_FROM = ("config.yaml", "results.json", "splits.json", CHECKPOINT)


@dataclasses.dataclass
class RunFolder:
    """A run's folder, held by this process until it is closed."""

    path: Path
    config: Config
    resumed: bool
    """Whether an earlier process began the run."""
    is_new: bool = False
    """Whether this process created the folder, which is of no sweep."""
    has_trained: bool = False
    """Whether a step was taken, also one that no file tells of, such as on a full disk."""
    held: contextlib.ExitStack | None = None
    """The lock on the folder. It ends when it is closed or when the process ends, even by a kill."""

    def close(self) -> None:
        """Release the folder for other processes."""
        if self.held is not None:
            self.held.close()


def unfinished(config: Config, overrides: list[str]) -> RunFolder | None:
    """The run that `config.resume` asks to resume; None for a new one.

    Args:
        overrides: the overrides of the command line, which must not contradict the run's own configuration.

    Raises InputError for a folder without an unfinished run, or one that another process holds.
    """
    if config.resume in (None, "auto") and not is_first_rank():
        return None
    if config.resume is None:
        return _newest(config, begun_by_agent(config.outputs_folder)) if agent() else None
    if config.resume == "auto":
        return _newest(config, run_folders(config.outputs_folder))
    if is_url(config.resume):
        outputs, *names = split_url(config.resume, "resume")
        url, config = config.resume, dataclasses.replace(config, outputs=outputs)
        overrides = [*overrides, "outputs=URL"]
        config = dataclasses.replace(config, resume=str(config.outputs_folder.joinpath(*names)))
        fetch_run(url, Path(str(config.resume)), "resume")
    folder = Path(str(config.resume))
    if started_together():
        folder = begun_files(Path(from_first_rank("resume", lambda: str(folder.absolute()))))
    stored = _read(folder)
    if stored is None:
        raise InputError(f"resume={folder} is not the folder of a run: it has no readable config.yaml{_why(folder)}")
    if is_finished(folder):
        raise InputError(f"resume={folder} has finished: there is nothing to resume")
    ours = dataclasses.asdict(config)
    require_trust(OmegaConf.to_container(stored), folder / "config.yaml", config.trust, set(targets_in(ours).values()))
    for override in overrides:
        key = key_of(override)
        if not is_location(key):
            _require_same(config, stored, key, folder)
        elif key != "resume":
            OmegaConf.update(stored, key, OmegaConf.select(OmegaConf.structured(config), key))
    own: Any = OmegaConf.to_object(stored)
    _require_secrets(own, folder)
    require_ours(dataclasses.asdict(own), ours, folder, config.trust)
    run = RunFolder(folder, own, resumed=True)
    if is_first_rank() and not _hold(run):
        raise InputError(f"resume={folder} is running in another process: wait for it, or end it first")
    return run


def job_of_sweep(config: Config, folder: Path) -> RunFolder:
    """The run of a sweep's job: the one that an earlier process began in its folder, or a new one.

    Raises InputError if the folder holds another run, or if another process holds the folder.
    """
    require_job(config, folder)
    if _read(folder) is None:
        return _new(config, new_run_folder(folder.parent, folder))
    run = RunFolder(folder, config, resumed=True)
    if not is_over(folder) and not _hold(run):
        raise RunningElsewhereError(folder)
    return run


def require_job(config: Config, folder: Path) -> None:
    """Raise InputError if the folder of a sweep's job holds a run with another config."""
    stored = _read(folder)
    if stored is None:
        if (folder / "results.json").exists():
            raise InputError(f"{folder} has results but no readable config.yaml: move it away to train it anew")
        return
    ours, theirs = located(config), located(stored)
    if other := [key for key in ours if ours[key] != theirs.get(key)]:
        key = min(other, key=lambda key: key.count("."))  # stream.seed follows seed
        resume = config.sweep.resume
        given = f"hydra.sweep.dir={folder.parent}" if resume is None else f"sweep.resume={resume}"
        raise InputError(
            f"{given} is another sweep: {folder} has {key}={theirs.get(key)}, not"
            f" {ours[key]}. Give the settings that it was started with"
        )


def open_folder(config: Config, found: RunFolder | None) -> RunFolder:
    """The folder of the run, on every rank: the one found, else a new one that the first rank creates.

    Raises InputError if it cannot be created.
    """
    run = found

    def make() -> dict[str, Any]:
        nonlocal run
        if run is None:
            run = _new(config, new_run_folder(config.outputs_folder / config.dataset.name))
            run.is_new = True
        keep_agent(run.path)
        return {"path": str(run.path.absolute()), "resumed": run.resumed}

    first = from_first_rank("run", make)
    if run is not None and not first["resumed"]:
        return run
    path = begun_files(Path(first["path"])) if first["resumed"] else Path(first["path"])
    return run or RunFolder(path, config, first["resumed"])


@functools.cache
def begun_files(folder: Path) -> Path:
    """Where this rank finds what a begun run goes on from: in its folder, or in a copy of the first rank's files.

    Args:
        folder: the run's folder on the first rank. All ranks ask for the same ones.
    """
    return files_from_first_rank(f"files of {folder}", folder, GOES_ON_FROM)


def earlier_results(folder: Path) -> Results | None:
    """The results so far of the process that began a run; None if it was stopped before it wrote them.

    Removes the files that it left half-written.
    """
    for leftover in folder.glob("*.part") if is_first_rank() else ():
        leftover.unlink()
    try:
        return Results.read(folder)
    except (OSError, ValueError, KeyError):
        return None


def earlier_clock(begun: RunFolder | None) -> tuple[float, str | None]:
    """Seconds that earlier processes spent on a run, 0 for a new one, and the moment by which it had to be over."""
    earlier = earlier_results(begun.path) if begun and begun.resumed else None
    return (sum(earlier.seconds.values()), earlier.budget_until) if earlier else (0.0, None)


def results_of(config: Config, overrides: list[str], **more: Any) -> Results:
    """The results that follow from the config of a run, and more.

    Args:
        overrides: the overrides of the command line.
    """
    return Results(
        dataset=config.dataset.name,
        model=config.model.name,
        experiment=config.experiment,
        seed=config.seed,
        stream_seed=config.stream.seed,
        name=config.name,
        tags=config.tags,
        overrides=overrides,
        hparams=hparams(config),
        **more,
    )


def leave_reason(folder: RunFolder, error: Exception, overrides: list[str]) -> None:
    """Write into a run's folder why the run failed before training began. A run that fails later writes this itself."""
    if not (folder.path / "results.json").exists():
        results_of(folder.config, overrides, stop_reason="error", error=reason(error)).write(folder.path)


def _new(config: Config, folder: Path) -> RunFolder:
    return RunFolder(folder, config, resumed=False, held=write_config(folder, as_yaml(config)))


def _hold(run: RunFolder) -> bool:
    """Lock a run's folder; False if another process holds it."""
    run.held = hold(run.path)
    return run.held is not None


def _newest(config: Config, found: dict[Path, float]) -> RunFolder | None:
    """The newest unfinished run in these folders with the same configuration that no process holds.

    Args:
        found: the folders, and the times of their configs.
    """
    wanted = located(config)
    for folder in sorted(found, key=found.__getitem__, reverse=True):
        if is_finished(folder):
            continue
        stored = _read(folder)
        if stored is not None and located(stored) == wanted:
            run = RunFolder(folder, config, resumed=True)
            if _hold(run):
                if not is_finished(folder):  # by the process that held it
                    return run
                run.close()
    return None


def _why(folder: Path) -> str:
    """Why the config of a run cannot be read, in brackets; nothing for a folder without one."""
    try:
        stored(folder)
    except FileNotFoundError:
        return ""
    except Exception as error:  # whatever is wrong with the file
        raise_received()  # OmegaConf may have made another error of a signal
        return f" ({message_of(error, 200)})"
    return ""


def _read(folder: Path) -> Any:
    """A run's own config with its types; None if the file is not a valid config."""
    try:
        return stored(folder)
    except Exception:  # any error means that this is not the config of a run
        raise_received()
        return None


def _at(config: Any, key: str) -> Any:
    """A setting, or a whole section, with absolute paths."""
    nested: Any = OmegaConf.to_container(OmegaConf.structured(config) if dataclasses.is_dataclass(config) else config)
    return _plain(OmegaConf.select(OmegaConf.create(from_anywhere(nested)), key))


def _require_secrets(config: Config, folder: Path) -> None:
    """Raise InputError for a setting that the run's folder has without its secret, and that was not given again."""
    nested = dataclasses.asdict(config)
    settings = {key: value for key, value in nested.items() if not isinstance(value, dict)}
    for section, values in nested.items():
        settings |= {f"{section}.{key}": value for key, value in values.items()} if isinstance(values, dict) else {}
    for key, value in settings.items():
        if is_redacted(value):
            raise InputError(
                f"resume={folder} has {key}={value} without its password or signature: give it again, {key}=..."
            )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _require_same(config: Config, stored: Any, key: str, folder: Path) -> None:
    """Raise InputError if a setting differs from the run's own. What was stored without its secret is given again."""
    given, own = (OmegaConf.select(each, key) for each in (OmegaConf.structured(config), stored))
    if is_redacted(_plain(own)) and redact(_plain(given)) == _plain(own):
        OmegaConf.update(stored, key, given, force_add=True)
    elif given != own and _at(config, key) != _at(stored, key):
        raise InputError(
            f"resume={folder} continues with its own {key}={own}: leave out {key}={given}, or start a new run"
        )
