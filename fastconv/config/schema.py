"""The typed configuration of a run: what can be set, and what it means.

The dataclasses here and the values they hold (`Policy`, `OneCycle`, `SGD`, ...) are the schema behind `conf/`: their
fields are the keys of the command line, their field docs are its help.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from fastconv.data.augment.policy import Policy
from fastconv.data.configs import Dataset, Stream
from fastconv.models.configs import TTA
from fastconv.optim.configs import Average
from fastconv.system.settings import BATCH, SHARE, Range, setting

if TYPE_CHECKING:
    from fastconv.models import Network
    from fastconv.optim import Optimizer, Schedule
else:  # OmegaConf knows no protocols
    Network = Optimizer = Schedule = Any

# Segments of a run's clock, in their order.
SEGMENTS = ("setup", "benchmark", "precompute", "compile", "train", "validate", "checkpoint", "test")
ACCELERATORS = ("auto", "cpu", "gpu")
# What `autotune` can choose.
CHOICES = ("model", "epochs", "batch_size", "flip", "augment", "data_pruning", "tta")


@dataclass
class Trainer:
    """The hardware that trains."""

    accelerator: str = setting("auto", options=ACCELERATORS)
    """`auto`, `cpu` or `gpu`."""
    devices: int = setting(1, Range("a number of devices", 1, 1024))
    """Number of GPUs, or of processes on a CPU."""
    strategy: str = setting("auto", options=("auto", "ddp"))
    """Lightning's strategy: `auto` or `ddp`."""
    precision: str = setting("auto", options=("auto", "bf16", "fp32"))
    """`bf16`, `fp32`, or `auto`: bf16 where the hardware is faster with it, else fp32."""
    channels_last: bool = True
    """Keep the channels of a pixel together in memory, which convolutions prefer."""
    keep_memory: bool = True
    """On a CPU under Linux, have the C library keep freed memory instead of giving it back in every step."""
    num_threads: int | None = setting(None, Range("a number of threads", 1, 1024, note=", or null for torch's choice"))
    """CPU threads that compute; null for torch's choice."""
    compile: bool | None = None
    """Compile the training step (`torch.compile`); null for on GPUs only, where it pays."""


@dataclass
class Budget:
    """How long a run may take."""

    seconds: float | None = setting(
        1000.0, Range("a number of seconds", 0, 1e9, closed="right", note=", or null for no limit")
    )
    """Seconds for what `counts` names; null for no limit (the run is then deterministic)."""
    counts: list[str] = setting(["train", "validate"], options=SEGMENTS)
    """Segments of the run's clock that the budget limits: setup, benchmark, precompute, compile, train, validate,
    checkpoint, test."""


@dataclass
class Validate:
    """Scores during training, for the curves. The result is the test split's, scored once at the end."""

    on: str = setting("test", options=("test", "holdout", "none"))
    """`test`: curves on test images, for looking only; `holdout`: on `dataset.holdout`, for tuning; `none`."""
    every: float = setting(1.0, Range("a number of epochs", 0, 1e6, closed="right"))
    """Epochs between two scores."""
    samples: int | None = setting(2000, Range("a number of images", 1, 1e9, note=", or null for all"))
    """How many images to score, evenly spread over the split; null for all. The held-out part is scored whole at
    the end of training all the same."""


@dataclass
class Checkpoint:
    """What is kept of the trained network."""

    save: bool = True
    """Write `last.ckpt`: as training goes on, when a signal ends the run, and at the end of training."""
    every: float | None = setting(
        60.0, Range("a number of seconds", 0, 1e9, closed="right", note=", or null for none but the first and the last")
    )
    """Seconds between two checkpoints during training; null for none but those of a signal and of the end."""


@dataclass
class Sweep:
    """What holds for the runs of a sweep together."""

    resume: str | None = None
    """Go on with a sweep, by the same command: its folder, or `auto` for the newest that is not whole (a new one if
    there is none). Finished runs are kept, unfinished ones go on, failed ones are tried again."""
    report: str = setting("none", options=("none", "augmentation_effect", "article"))
    """What to write at the end besides `compare.html`: `augmentation_effect`, a report of where the networks look with
    and without augmentation (see fastconv.explain); `article`, a page of the runs on each data set, with and without
    augmentation; or `none`."""


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
    """Where curves, settings and results are logged, by name: logger=[csv,tensorboard] and the like. Those of your own:
    +logger.NAME={_target_: package.module.Logger, argument: value}, a logger of Lightning's kind."""
    callbacks: list[Any] = field(default_factory=list)
    """Callbacks of your own: [{_target_: package.module.Callback, argument: value}, ...]. Their state is in the
    checkpoint."""
    experiment: str | None = None
    """Name of the experiment, written by its config."""
    seed: int = setting(0, Range("a whole number", 0, 2**32, closed="left"))
    """Seed of the network's first weights, and of the stream unless stream.seed is set."""
    batch_size: int = setting(MISSING, BATCH)
    """Images per optimizer step, over all devices."""
    micro_batch_size: int = setting(MISSING, BATCH)
    """Images over which batch norm takes its statistics: the part of a batch that is computed at once."""
    data_pruning: float = setting(0.0, Range("a share", 0, 0.5, closed="left"))
    """Share of the training images, in [0, 0.5), that rest in each epoch: those that a small network knows best after
    an epoch of its own, each in every other epoch."""
    label_smoothing: float = setting(0.0, SHARE)
    """Share of each label, in [0, 1), that is spread over all classes."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""
    outputs: str = "outputs"
    """Folder in which each run makes its own."""
    figures: bool = True
    """Draw the run's figures and, for TensorBoard, the network's graph: some seconds before and after training, which
    the budget does not count."""
    autotune: list[str] = setting([], options=CHOICES)
    """What to choose by what the budget affords on this machine (`experiment=best`), unless it is set on the command
    line: model, epochs, batch_size, flip, augment, data_pruning, tta."""
    resume: str | None = None
    """Go on with an unfinished run: the folder of one, or `auto` for the newest with this configuration (a new run if
    there is none)."""
    dry_run: bool = False
    """Print the plan and stop."""
    trust: bool = False
    """Follow each `_target_` in the files of the run to resume, which somebody else may have written."""
    verify: bool = False
    """precompute: check every shard against its sha256 and write damaged ones again."""
    prune: bool = False
    """precompute: remove the least recently used streams until the rest fits in stream.max_gb."""
