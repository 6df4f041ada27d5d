"""The TensorBoard logger of a run: curves, the configuration, the results, pictures and the network's graph."""

import copy
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from torch import nn

from fastconv.config.run_settings import as_yaml, hparams
from fastconv.config.schema import Config
from fastconv.runs.results import MEASURES, Results
from fastconv.system.errors import message_of, warn
from fastconv.system.names import valid_unicode

# TensorBoard opens on the first two groups of tags by the alphabet, and the HParams page has its columns in that order.
# So accuracy comes first (`accuracy` alone is that of the test images), then loss. By the names of `metrics.csv` and of
# `results.json`, which other loggers use too; what is not named here keeps its name.
TAGS = {
    "results/accuracy": "accuracy",
    "train/accuracy": "accuracy/train",
    "validate/accuracy": "accuracy/validate",
    "results/loss": "loss",
    "train/loss": "loss/train",
    "validate/loss": "loss/validate",
    "train/epoch": "time/epoch",
    "budget/seconds_counted": "time/seconds_counted",
    "budget/used": "time/budget_used",
}
# Charts by category. Tags are patterns, so that runs with and without validations or a time limit have the same layout:
# TensorBoard merges the layouts of runs, and would show two charts side by side if they differed.
LAYOUT = {
    "training": {
        "loss (in training: of smoothed labels, if they are)": ["Multiline", ["loss/(train|validate)$"]],
        "accuracy": ["Multiline", ["accuracy/(train|validate)$"]],
        "learning rate": ["Multiline", ["schedule/lr$"]],
        "momentum": ["Multiline", ["schedule/momentum$"]],
    },
    "speed": {
        "images/s": ["Multiline", ["speed/images_per_second$"]],
        "share of the training time waiting for data": ["Multiline", ["speed/dataloader_wait_fraction$"]],
    },
    "budget": {
        "progress of the schedule, share of the budget used": ["Multiline", ["(schedule/progress|time/budget_used)$"]],
        "seconds counted": ["Multiline", ["time/seconds_counted$"]],
        "epochs": ["Multiline", ["time/epoch$"]],
    },
}
# Results by which the HParams page can sort and filter runs.
METRICS = (*MEASURES, "loss", "epochs", "seconds_counted", "images_per_second")
# Defaults of a data set or a model. The values in use are under `augment`, `batch_size` and `micro_batch_size`.
DEFAULTS = (
    "dataset.flip",
    "dataset.crop_padding",
    "dataset.cutout_size",
    "dataset.batch_size",
    "model.micro_batch_size",
)


class Dashboard(TensorBoardLogger):
    """The TensorBoard logger of a run. It writes one event file until it is closed.

    The Trainer finalizes its loggers at the end of every fit, validation and test, and each later log call would start
    another file. If a method below fails, its part is left out with a warning, so that it cannot spoil a run that is
    trained and scored.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        # The path is absolute, since Lightning's file system would take a leading ~ for somebody's home.
        super().__init__(folder.absolute(), name="", version="")

    @property
    def log_dir(self) -> str:
        """The folder of the run as it is: Lightning's own would replace `$HOME` in it, and write elsewhere."""
        return str(self.save_dir)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values by their names in `metrics.csv`, under the names of `TAGS`. Numbers are one event, which is a
        fraction of the work of an event for each."""
        metrics = {TAGS.get(name, name): value for name, value in metrics.items()}
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if others := {name: value for name, value in metrics.items() if name not in numbers}:  # tensors, dictionaries
            super().log_metrics(others, step)
        if numbers:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self.experiment.file_writer.add_summary(Summary(value=values), step)

    def finalize(self, status: str) -> None:
        self.experiment.flush()

    def close(self) -> None:
        """Write out buffered values. Nothing can be logged after this."""
        self.experiment.close()

    def show_settings(self, config: Config) -> None:
        """Log the configuration before training, for the HParams page and as text, and the layout of custom scalars."""
        with optional("configuration"):
            self.experiment.add_custom_scalars(LAYOUT)
            self.experiment.add_text("config", f"```yaml\n{as_yaml(config)}```")
            start = SessionStartInfo(start_time_secs=time.time())
            for key, value in hyperparameters(config).items():
                kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
                setattr(start.hparams[key], kind, value)
            self._add_session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))

    def show_results(self, results: Results) -> None:
        """Log the results after scoring, also for the HParams page."""
        with optional("results"):
            for key in METRICS:
                if (value := getattr(results, key)) is not None:
                    name = f"results/{key}"
                    self.experiment.add_scalar(TAGS.get(name, name), value, results.steps)
            end = SessionEndInfo(status=Status.STATUS_SUCCESS, end_time_secs=time.time())
            self._add_session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))

    def show_picture(self, path: Path, step: int) -> None:
        """Show a PNG file under its name, behind the curves: in Time Series pictures and curves share one order."""
        from fastconv.analysis import figures  # imports matplotlib, which training does not need

        with optional(path.stem):
            self.experiment.add_image(f"pictures/{path.stem}", figures.read_png(path), step, dataformats="HWC")

    def show_graph(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        """Show the graph of a network for images of `shape`: height, width and channels."""
        height, width, channels = shape
        with optional("graph"), warnings.catch_warnings():
            # torch warns that its tracer is deprecated, but TensorBoard's writer needs it.
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch.jit")
            # It also warns that a network that depends on the size of its maps is traced for one size, as intended
            # here.
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            self.experiment.add_graph(copy.deepcopy(network).cpu(), torch.zeros(1, channels, height, width))

    def _add_session(self, tag: str, content: HParamsPluginData) -> None:
        """Log to the HParams page, without the writer's `add_hparams`, which would create another run in its own
        folder.

        It logs no list of columns, because one run does not know the columns of others; TensorBoard collects them.
        """
        value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
        self.experiment.file_writer.add_summary(Summary(value=[value]))


def hyperparameters(config: Config) -> dict[str, str | bool | float]:
    """The settings by key, such as `optimizer.max_lr`: the columns of the HParams page.

    Null values are left out, since TensorBoard cannot sort a column of numbers and words. Lists become words.
    """
    values: dict[str, Any] = {key: value for key, value in hparams(config).items() if key not in DEFAULTS}
    return {
        key: valid_unicode(", ".join(map(str, value)) if isinstance(value, list) else value)
        if isinstance(value, list | str)
        else value
        for key, value in values.items()
        if value is not None
    }


@contextmanager
def optional(part: str) -> Iterator[None]:
    """Skip a part that fails, with a warning, for any error of TensorBoard, Matplotlib, torch's tracer or Captum."""
    try:
        yield
    except Exception as error:
        warn(f"left out: {part} ({message_of(error)}). The run itself is whole")
