"""The typed configuration of a run: its settings and what each one means.

The dataclasses here and the values they hold (`Policy`, `OneCycle`, `SGD`, ...) are the schema behind `conf/`. Their
fields are the keys of the command line, and their field docs are its help.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from fastconv.data.augment.policy import Policy
from fastconv.data.configs import Dataset, Stream
from fastconv.models.configs import TTA
from fastconv.optim.configs import Average
from fastconv.runs.results import OBJECTIVES
from fastconv.system.cluster import world_size
from fastconv.system.settings import BATCH, SHARE, Range, is_url, setting
from fastconv.system.urls import redacted

if TYPE_CHECKING:
    from fastconv.models import Network
    from fastconv.optim import Optimizer, Schedule
else:  # OmegaConf does not support protocols
    Network = Optimizer = Schedule = Any

# Segments of a run's clock, in order.
SEGMENTS = ("setup", "benchmark", "precompute", "compile", "train", "validate", "checkpoint", "test")
# Folders that fastconv makes in the folder of the data sets; RUNS has those whose `outputs` is a URL.
BENCHMARKS, RUNS = "benchmarks", "runs"
DATA_FOLDERS = ("arrays", "streams", BENCHMARKS, RUNS)
ACCELERATORS = ("auto", "cpu", "gpu")
# How a search draws its trials, and how it finds those that it ends early.
SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "hyperband", "none")
# What `autotune` can choose, and the keys of the command line that settle it instead.
CHOICES = {
    "model": ("model",),
    "epochs": ("schedule.max_epochs",),
    "batch_size": ("batch_size", "micro_batch_size", "dataset.batch_size", "model.micro_batch_size"),
    "flip": ("dataset.flip", "augment"),  # a policy that is set flips as it says
    "augment": ("augment",),
    "data_pruning": ("data_pruning",),
    "progressive_resizing": ("progressive_resizing",),
    "tta": ("tta",),
}


@dataclass
class Trainer:
    """The hardware that trains."""

    accelerator: str = setting("auto", options=ACCELERATORS)
    """Hardware to train on: `cpu`, `gpu`, or `auto` for a GPU if there is one."""
    devices: int = setting(1, Range("a number of devices", 1, 1024))
    """Number of GPUs that train on each machine, or of processes that train on CPUs."""
    nodes: int | None = setting(None, Range("a number of nodes", 1, 1024, note=", or null for those of the launcher"))
    """Number of machines that train one run together, each on `devices`; null for the number that the launcher (srun,
    mpirun or torchrun) uses, or 1."""
    strategy: str = setting("auto", options=("auto", "ddp"))
    """Lightning's strategy for several devices: `auto` or `ddp`."""
    precision: str = setting("auto", options=("auto", "bf16", "fp32"))
    """Number format of the computation: `bf16`, `fp32`, or `auto` for bf16 if the hardware is faster with it."""
    winograd: str = setting("auto", options=("auto", "on", "off"))
    """Compute 3x3 convolutions on a CPU by Winograd's algorithm, with fewer multiplications: `off`, `on`, or
    `auto` for processors on which it was measured to be faster. It needs a C compiler."""
    channels_last: bool = True
    """Store the channels of a pixel next to each other in memory, which makes convolutions faster."""
    keep_memory: bool = True
    """On a CPU under Linux: make the C library keep freed memory instead of returning it in every step."""
    num_threads: int | str | None = setting(
        "auto", Range("a number of threads", 1, 1024, note=", auto, or null for torch's choice"), options=("auto",)
    )
    """Number of CPU threads; null for torch's choice, or fewer where a container may use fewer CPUs. `auto` begins with
    that; with a time limit, it measures before training, and again when steps slow down, whether fewer are faster."""
    compile: bool | None = None
    """Compile the training step with `torch.compile`; null to compile on GPUs only, where it pays off."""
    graph: str = setting("auto", options=("auto", "on", "off"))
    """Run the training step as a CUDA graph, which saves the host's time: `on`, `off`, or `auto` for `on` if it is
    possible on a single GPU, with a network of fastconv or a library."""

    @property
    def world(self) -> int:
        """Number of devices that train together, over all nodes: each has its share of a batch."""
        return world_size(self.devices, self.nodes)


@dataclass
class Budget:
    """The time limit of a run."""

    seconds: float | None = setting(
        1000.0, Range("a number of seconds", 0, 1e9, closed="right", note=", or null for no limit")
    )
    """Seconds that the segments in `counts` may take together; null for no limit, which makes the run deterministic."""
    counts: list[str] = setting(["train", "validate"], options=SEGMENTS)
    """Segments of the run's clock that count towards the budget: setup, benchmark, precompute, compile, train,
    validate, checkpoint, test."""
    until: str | None = setting(None, text=True)
    """The moment by which the run must be trained, saved and scored: `job` for the end of its SLURM job, a clock time
    such as 18:30, or a date and a time such as 2026-11-29T18:30; null for none. The budget is then the smaller of
    `seconds` and the remaining time, and all segments count, from the start of the process."""


@dataclass
class Validate:
    """Validation during training, for the curves. The final result is scored once, on the test split, at the end."""

    on: str = setting("test", options=("test", "holdout", "none"))
    """Images for the curves: `test` for test images (never tune by these), `holdout` for the images that
    `dataset.holdout` holds out (for tuning), or `none`."""
    every: float = setting(1.0, Range("a number of epochs", 0, 1e6, closed="right"))
    """Epochs between two validations."""
    samples: int | None = setting(2000, Range("a number of images", 1, 1e9, note=", or null for all"))
    """Number of images to score in a validation, evenly spread over the split; null for all. With `holdout`, all
    held-out images are scored at the end of training."""


@dataclass
class Checkpoint:
    """When to save the network."""

    save: bool = True
    """Write `last.ckpt` during training, when a signal ends the run, and at the end of training."""
    every: float | None = setting(
        60.0, Range("a number of seconds", 0, 1e9, closed="right", note=", or null for none but the first and the last")
    )
    """Seconds between two checkpoints during training; null for only the first, the last, and one at a signal."""


@dataclass
class Sweep:
    """Settings of a sweep as a whole."""

    resume: str | None = setting(None, path=True, local=True)
    """Resume a sweep with the command that started it: give its folder, or `auto` for the newest unfinished one (or a
    new one if there is none). Finished runs are kept, stopped ones continue, and failed ones are tried again. Null
    starts a new sweep."""
    report: str = setting("none", options=("none", "augmentation_effect", "article"))
    """Report to write at the end besides `compare.html`: `augmentation_effect` compares heatmaps with and without
    augmentation (see fastconv.explain); `article` is a page of the runs on each data set with and without augmentation;
    `none` writes none."""
    trials: int | None = setting(None, Range("a number of trials", 1, 100_000, note=", or null for a grid"))
    """Number of trials of a search for the best of the given values, by the objective on held-out images; null for a
    grid, which trains every combination. A larger number, with `sweep.resume`, extends a search."""
    sampler: str = setting("tpe", options=SAMPLERS)
    """How a search draws its trials: `tpe` (the Tree-structured Parzen Estimator of Optuna) or `random`."""
    seed: int = setting(0, Range("a whole number", 0, 2**32, closed="left"))
    """Seed of a search. The seed, the number of a trial and the earlier results decide its values."""
    startup_trials: int = setting(5, Range("a number of trials", 1, 100_000))
    """Number of first trials of a search that are drawn at random, and that must be finished before `median` ends
    others."""
    pruner: str = setting("median", options=PRUNERS)
    """Rule that ends trials of a search early, by their validations: `median` ends those below the median of the
    finished trials at the same share of the training, after its first fifth; `hyperband` gives more time to fewer
    trials; `none` ends none."""
    storage: str | None = None
    """Where a search stores its trials: null for a journal in the sweep's folder, or the URL of a database, such as
    postgresql://user@host/name."""


@dataclass
class PretrainedTrial:
    """The trial of a pretrained network, by which `experiment=best` decides whether to start from its weights."""

    trial: str = setting("auto", options=("auto", "never"))
    """`auto` tries a pretrained network on held-out training images of your own data set, if its weights are on this
    machine or can be downloaded; `never` trains from scratch."""
    backbone: str = "resnet18"
    """The pretrained network to try, as `model.backbone` of model=pretrained."""
    weights: str | None = setting(None, path=True, local=True)
    """File of its weights, as `model.weights` of model=pretrained; null for the library's own."""


@dataclass
class Config:
    """A run."""

    dataset: Dataset = field(default_factory=Dataset)
    model: Network = MISSING
    augment: Policy = field(default_factory=Policy)
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    average: Average = field(default_factory=Average)
    stream: Stream = field(default_factory=Stream)
    trainer: Trainer = field(default_factory=Trainer)
    budget: Budget = field(default_factory=Budget)
    validate: Validate = field(default_factory=Validate)
    tta: TTA = field(default_factory=TTA)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    sweep: Sweep = field(default_factory=Sweep)
    logger: dict[str, Any] = field(default_factory=dict)
    """Loggers of curves, settings and results, by name, such as logger=[csv,tensorboard].
    logger.mlflow.tracking_uri is the address of MLflow's server; null for the file mlflow.db below `outputs`.
    logger.wandb.offline=false sends to Weights & Biases at once. Add a Lightning logger of your own with
    +logger.NAME={_target_: package.module.Logger, argument: value}."""
    callbacks: list[Any] = field(default_factory=list)
    """Lightning callbacks of your own: [{_target_: package.module.Callback, argument: value}, ...]. The checkpoint
    stores their state."""
    name: str | None = None
    """A name for the run, which `results.json` keeps and `compare` shows; null for none. It changes no result."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by, such as tags=[draft,wide]: `compare where=tags:draft` shows the runs with that tag."""
    experiment: str | None = None
    """Name of the experiment; its config file sets it. Null for none."""
    seed: int = setting(0, Range("a whole number", 0, 2**32, closed="left"))
    """Seed of the network's initial weights, and of the stream unless stream.seed is set."""
    batch_size: int = setting(MISSING, BATCH)
    """Images per optimizer step, over all devices."""
    micro_batch_size: int = setting(MISSING, BATCH)
    """Images of a batch that are computed at once. Batch norm takes its statistics over them (ghost batch norm)."""
    data_pruning: float = setting(0.0, Range("a share", 0, 0.5, closed="left"))
    """Share of the training images, in [0, 0.5), that each epoch skips: the images that a small proxy network
    classifies most confidently after one epoch of training. Each of them is skipped in every other epoch."""
    progressive_resizing: float = setting(0.0, Range("a share", 0, 1, closed="left"))
    """Share of the run, in [0, 1), at whose start images have three quarters of their side. Steps with small images
    take about half the time."""
    label_smoothing: float = setting(0.0, SHARE)
    """Label smoothing: the share of each label, in [0, 1), that is spread over all classes."""
    calibration_images: int = setting(0, Range("a number of images", 0, 1e6))
    """Number of training images to set aside to fit the temperature. None are set aside without `label_smoothing`, with
    `dataset.holdout`, or if they would be more than one in 25 training images."""
    objective: str = setting("accuracy", options=OBJECTIVES)
    """The result that a run is judged by: `accuracy`, or one in which each class counts the same, `balanced_accuracy`
    (the mean of the classes' recalls) or `macro_f1` (the mean of their F1 scores). With the last two, each epoch has
    the same number of images of every class: those of a rare class repeat."""
    data: str = setting("data", path=True, local=True)
    """Folder of the data sets. The environment variable FASTCONV_DATA sets its default."""
    outputs: str = setting("outputs", path=True)
    """Folder in which each run creates its own folder; or a URL in an object store, such as s3://bucket/runs. Train
    then writes the run's folder below `data`, and copies it to the store after each checkpoint and at the end."""
    figures: bool = True
    """Draw the run's figures and, for TensorBoard, the network's graph, after the result. The budget does not count
    these seconds."""
    autotune: list[str] = setting([], options=tuple(CHOICES))
    """Settings to choose automatically, by what the budget allows on this machine (`experiment=best`): model, epochs,
    batch_size, flip, augment, data_pruning, progressive_resizing, tta. Settings given on the command line stay."""
    pretrained: PretrainedTrial = field(default_factory=PretrainedTrial)
    resume: str | None = setting(None, path=True, local=True)
    """Resume an unfinished run: give its folder, or `auto` for the newest with this configuration (or a new run if
    there is none). Null starts a new run."""
    dry_run: bool = False
    """Print the plan and stop before training."""
    trust: bool = False
    """Run the code that `_target_` entries in the resumed run's files name, and open URLs in them. Set it only for
    files that you trust."""
    verify: bool = False
    """For precompute: check every shard against its sha256 and write damaged ones again."""
    prune: bool = False
    """For precompute: remove the least recently used streams until the rest fits in stream.max_gb."""
    part: int = setting(0, Range("a number", 0, 999))
    """For precompute: which of the `parts` parts of the stream to write, counted from 0. A part is every `parts`-th
    epoch."""
    parts: int = setting(1, Range("a number", 1, 1000))
    """For precompute: number of parts of the stream, each of which one process writes."""

    @property
    def benchmarks_folder(self) -> Path:
        """The folder of measurements of this machine and of its data sets, which later runs read."""
        return Path(self.data, BENCHMARKS)

    @property
    def outputs_folder(self) -> Path:
        """The folder of the runs on this machine; for a URL a folder whose name has no secret of it."""
        if not is_url(self.outputs):
            return Path(self.outputs)
        shown = redacted(self.outputs).rstrip("/")
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", shown.partition("://")[2]).strip("-.")[:60]
        return Path(self.data, RUNS, f"{name}-{hashlib.sha256(shown.encode()).hexdigest()[:8]}")

    def own_folders(self) -> tuple[Path, ...]:
        """Folders that fastconv writes to: even among the user's images, they are not classes."""
        data, outputs = Path(self.data), self.outputs_folder
        inside = [
            *(data / name for name in DATA_FOLDERS),
            outputs / "sweeps",
            outputs / self.dataset.name,
        ]
        streams = [] if self.stream.is_remote else [Path(self.stream.root)]
        return (data, outputs, *streams, Path(self.stream.cache), *inside)
