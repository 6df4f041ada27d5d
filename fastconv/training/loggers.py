"""The loggers of a run: a table, TensorBoard, MLflow, Weights & Biases, and a user's own loggers."""

import functools
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from fastconv.config.schema import Config
from fastconv.runs.results import Results
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, reason, warn
from fastconv.system.files import unwritable
from fastconv.system.targets import import_target
from fastconv.system.urls import redact
from fastconv.training.metrics_table import MetricsTable
from fastconv.training.tensorboard import METRICS, Dashboard, hyperparameters

L = TypeVar("L", bound=Logger)

# MLflow tag with the run's folder, by which a resumed run is found.
FOLDER_TAG = "fastconv.folder"
# What the Trainer and a run call of a logger.
CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize", "close")


class Loggers:
    """All loggers of a run. Each starts empty when a run is resumed, and the recorder logs the earlier values again.

    `table` writes `metrics.csv`, the source of figures and comparisons, for every choice of loggers. `dashboard` is the
    TensorBoard logger, if chosen. A logger that fails, except `table`, is left out from then on, with a warning.

    Args:
        config: config of the run.
        folder: folder of the run.

    Raises InputError for a logger that cannot be made.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        if is_first_rank():
            for old in (*folder.glob("events.out.tfevents.*"), *folder.glob("metrics.csv")):
                try:
                    old.unlink()
                except OSError as error:
                    raise unwritable(old, error) from error
        chosen = {name: settings for name, settings in config.logger.items() if settings not in (None, False)}
        self.dashboard = open_dashboard(folder) if "tensorboard" in chosen else None
        self.table = MetricsTable(folder)
        self._others = [
            optional_logger(name, make_logger(name, settings, config, folder))
            for name, settings in chosen.items()
            if name not in ("csv", "tensorboard")
        ]

    @property
    def all(self) -> list[Logger]:
        """All loggers, for a Trainer."""
        return [*([self.dashboard] if self.dashboard else []), self.table, *self._others]

    def log_settings(self) -> None:
        """Log the configuration before training. Only the first rank calls this."""
        if self.dashboard:
            self.dashboard.show_settings(self._config)
        for logger in self._others:
            logger.log_hyperparams(hyperparameters(self._config))

    def log_results(self, results: Results) -> None:
        """Log the results after scoring. Only the first rank calls this."""
        if self.dashboard:
            self.dashboard.show_results(results)
        found = {f"results/{key}": getattr(results, key) for key in METRICS}
        for logger in self._others:
            logger.log_metrics({key: value for key, value in found.items() if value is not None}, step=results.steps)

    def close(self) -> None:
        """Write out buffered values. Nothing can be logged after this."""
        self.table.finalize("success")
        if self.dashboard:
            self.dashboard.close()
        for logger in self._others:
            logger.finalize("success")
            if isinstance(logger, WandbLogger) and is_first_rank():
                logger.close()  # type: ignore[attr-defined]
        with suppress(OSError):
            (self._folder / "hparams.yaml").unlink(missing_ok=True)  # an empty file of TensorBoard's logger


def open_dashboard(folder: Path) -> Dashboard | None:
    """The TensorBoard logger of a run; None, with a warning, if its file cannot be written."""
    made = Dashboard(folder)
    try:
        _ = made.experiment  # this opens the file
    except Exception as error:  # a full disk, or whatever TensorBoard's writer raises
        warn(f"left out: logger.tensorboard ({reason(error)}). The run itself is whole")
        return None
    return optional_logger("tensorboard", made)


def optional_logger(name: str, logger: L) -> L:
    """Make a logger leave itself out, with a warning, from its first failure on: no run should end because of it.

    It is the same object, since callbacks may look for loggers of its class.
    """
    failed = False

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def calling(*arguments: Any, **settings: Any) -> Any:
            nonlocal failed
            if failed:
                return None
            try:
                return call(*arguments, **settings)
            except Exception as error:  # a full disk, a server that is gone, or anything else
                failed = True
                warn(f"left out: the rest of logger.{name} ({reason(error)}). The run itself is whole")
                return None

        return calling

    if isinstance(logger, WandbLogger):
        logger.close = lambda: logger.experiment.finish()  # type: ignore[attr-defined]
    for each in CALLS:
        if callable(method := getattr(logger, each, None)):
            setattr(logger, each, guarded(method))
    return logger


def make_logger(name: str, settings: Any, config: Config, folder: Path) -> Logger:
    """Make one of the loggers that `config.logger` names.

    Args:
        settings: settings of the logger, by name. For a user's own logger, `_target_` is the dotted path of its class
            and the others are its arguments.

    Raises InputError for a logger that is unknown or cannot be made.
    """
    if not isinstance(settings, Mapping) or ("_target_" not in settings and name not in MAKERS):
        raise InputError(f"logger.{name}={settings} is unknown: choose from csv, tensorboard, {', '.join(MAKERS)}")
    arguments = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        if "_target_" not in settings:
            made = MAKERS[name](config, folder, **arguments)
        else:
            made = import_target(settings["_target_"], f"logger.{name}._target_")(**arguments)
        hasattr(made, "experiment")  # opens it, which would fail in the Trainer if a server does not answer
    except InputError:
        raise
    except Exception as error:  # a logger may raise anything
        raise InputError(f"logger.{name} cannot be made: {reason(error)}") from error
    if not isinstance(made, Logger):
        raise InputError(f"logger.{name}._target_={settings['_target_']} is not a Lightning logger")
    return made


def mlflow(config: Config, folder: Path, experiment: str, tracking_uri: str | None = None) -> MLFlowLogger:
    """A run in MLflow, named after the run's folder. An earlier MLflow run of the same folder is marked as deleted.

    Args:
        experiment: name of the experiment that holds the runs.
        tracking_uri: the store; None for the file `mlflow.db` below `config.outputs`.
    """
    for package in ("alembic", "mlflow"):  # both print greetings to the terminal
        logging.getLogger(package).setLevel(logging.WARNING)
    uri = tracking_uri or f"sqlite:///{(config.outputs_folder / 'mlflow.db').absolute()}"
    tag = str(folder.absolute())
    made = MLFlowLogger(experiment, folder.name, tracking_uri=uri, tags={FOLDER_TAG: tag})
    if is_first_rank():
        store = made.experiment  # this creates the run
        quote = '"' if "'" in tag else "'"  # MLflow knows both, and no escape
        for run in store.search_runs([made.experiment_id], f"tags.`{FOLDER_TAG}` = {quote}{tag}{quote}"):
            if run.info.run_id != made.run_id:
                store.delete_run(run.info.run_id)
    return made


def wandb(config: Config, folder: Path, project: str, offline: bool = True) -> WandbLogger:
    """A run of Weights & Biases, in the run's folder and named after it.

    Args:
        project: name of the project that holds the runs.
        offline: write to the folder only; false sends everything to the server at once.
    """
    from wandb import Settings

    if is_first_rank():
        shutil.rmtree(folder / "wandb", ignore_errors=True)
    # It would store the command line.
    settings = Settings(silent=True, console="off", x_disable_meta=redact(sys.argv) != sys.argv)
    return WandbLogger(
        name=folder.name, id=folder.name, save_dir=folder, project=project, offline=offline, settings=settings
    )


# Loggers other than the table and TensorBoard, by name. Each gets the config, the run's folder, and its own settings.
MAKERS: dict[str, Callable[..., Logger]] = {"mlflow": mlflow, "wandb": wandb}
