"""The loggers of a run: a table, TensorBoard, MLflow, Weights & Biases, and a user's own loggers."""

import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from fastconv.config.schema import Config
from fastconv.runs.results import Results
from fastconv.system.distributed import is_first_rank
from fastconv.system.errors import InputError, reason
from fastconv.system.targets import import_target
from fastconv.system.urls import redact
from fastconv.training.tensorboard import METRICS, Dashboard, hyperparameters

# MLflow tag with the run's folder, by which a resumed run is found.
FOLDER_TAG = "fastconv.folder"


class Loggers:
    """All loggers of a run. Each starts empty when a run is resumed, and the recorder logs the earlier values again.

    `table` writes `metrics.csv`, the source of figures and comparisons, for every choice of loggers. `dashboard` is the
    TensorBoard logger, if chosen.

    Args:
        config: config of the run.
        folder: folder of the run.

    Raises InputError for a logger that cannot be made.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        if is_first_rank():
            for old in (*folder.glob("events.out.tfevents.*"), *folder.glob("metrics.csv")):
                old.unlink()
        chosen = {name: settings for name, settings in config.logger.items() if settings not in (None, False)}
        self.dashboard = Dashboard(folder) if "tensorboard" in chosen else None
        self.table = CSVLogger(folder, name="", version="")
        self._others = [
            make_logger(name, settings, config, folder)
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
                logger.experiment.finish()
        (self._folder / "hparams.yaml").unlink(missing_ok=True)  # an empty file of the table's logger


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
            return MAKERS[name](config, folder, **arguments)
        made = import_target(settings["_target_"], f"logger.{name}._target_")(**arguments)
    except InputError:
        raise
    except Exception as error:  # a logger may raise anything
        raise InputError(f"logger.{name} cannot be made: {reason(error)}") from error
    if not isinstance(made, Logger):
        raise InputError(f"logger.{name}._target_={settings['_target_']} is no logger of Lightning's kind")
    return made


def mlflow(config: Config, folder: Path, experiment: str, tracking_uri: str | None = None) -> MLFlowLogger:
    """A run in MLflow, named after the run's folder. An earlier MLflow run of the same folder is marked as deleted.

    Args:
        experiment: name of the experiment that holds the runs.
        tracking_uri: the store; None for the file `mlflow.db` below `config.outputs`.
    """
    for package in ("alembic", "mlflow"):  # both print greetings to the terminal
        logging.getLogger(package).setLevel(logging.WARNING)
    uri = tracking_uri or f"sqlite:///{(Path(config.outputs) / 'mlflow.db').absolute()}"
    tag = str(folder.absolute())
    made = MLFlowLogger(experiment, folder.name, tracking_uri=uri, tags={FOLDER_TAG: tag})
    if is_first_rank():
        store = made.experiment  # this creates the run
        for run in store.search_runs([made.experiment_id], f"tags.`{FOLDER_TAG}` = '{tag}'"):
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
