"""The typed configuration of a run: what can be set, and what it means.

The dataclasses here and the values they hold (`Policy`, `OneCycle`, `SGD`, ...) are the schema behind `conf/`: their
fields are the keys of the command line, their field docs are its help.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fastconv.data.augment.plan import Policy


@dataclass
class Dataset:
    """Which images, and what is true of them whatever the recipe."""

    name: str = MISSING
    """digits, mnist, fashion_mnist or cifar10; a class of torchvision's data sets; or what you call your own."""
    source: str = "builtin"
    """Where own images come from: image_folder, csv, webdataset, torchvision or arrays; `builtin` for none of them."""
    root: str | None = None
    """image_folder: the folder that has a folder for each class, or folders train and test (or val) that have; csv: the
    folder of the files (null for the table's own); arrays: the .npz."""
    train: Any = None
    """webdataset: tars to train on, paths or URLs, one or a list, with {000..010} or * for ranges; csv: the table."""
    test: Any = None
    """The same, to test with; null for a part of those to train on."""
    image_size: int | None = None
    """Side in pixels that own images are scaled to; null for that of the middle one of them, from 24 to 128."""
    test_share: float = 0.2
    """Share of own images, the same of every class, to test with, if they come without a test split."""
    split_seed: int = 0
    """Seed of the choice of these images."""
    strict: bool = False
    """Stop if some images cannot be read, instead of going on without them."""
    holdout: float = 0.0
    """Share of the training images, in [0, 1), held out (the same of every class) for tuning."""
    holdout_seed: int = 0
    """Seed of the choice of held-out images."""
    flip: float = 0.5
    """Chance of a mirrored image in `augment=flip`, `standard` and `airbench`; 0 where mirroring changes the class."""
    crop_padding: int = 4
    """Pixels of padding on each side in `augment=crop` and `standard`."""
    cutout_size: int = 8
    """Side in pixels of the covered square in `augment=cutout` and `standard`."""
    batch_size: int = 512
    """Images per optimizer step that suit the size of the data set."""


@dataclass
class DavidNet:
    """The 9-layer residual network that won DAWNBench."""

    name: str = "davidnet"
    width: int = 64
    """Filters of the first layer; the others have two, four and eight times as many."""
    logits_scale: float = 0.125
    """Factor on the logits."""
    whitening: bool = False
    """Whiten 3x3 patches in a frozen first layer, computed from the training images."""
    dirac: bool = False
    """Let the first filters of each convolution begin by handing their inputs on."""
    pool_before_norm: bool = False
    """Pool directly after the convolution, so that the norm has a quarter of the pixels."""
    activation: str = "relu"
    """`relu`, `celu`, `gelu` or `silu`."""
    freeze_norm_scale: bool = False
    """Batch norms learn a bias only."""
    norm_batch: int = 256
    """Images over which batch norm takes its statistics, unless `norm_batch` is set or a batch is smaller."""


@dataclass
class Airbench:
    """The network of the CIFAR-10 speed records: whitening and three groups of convolutions."""

    name: str = "airbench"
    widths: list[int] = field(default_factory=lambda: [64, 256, 256])
    """Filters of each group."""
    convs: int = 2
    """Convolutions of each group."""
    residual: bool = False
    """Give each group a connection past its further convolutions."""
    whitening_kernel: int | None = None
    """Side of the whitened patches in pixels; null for 2, or 3 for grey images, whose patches have fewer directions."""
    activation: str = "gelu"
    """`relu`, `celu`, `gelu` or `silu`."""
    norm_momentum: float = 0.4
    """Share of a batch's statistics in the running ones."""
    logits_scale: float = 1 / 9
    """Factor on the logits, which begin with the same size whatever it is: how fast the last layer learns, but for
    optimizer=muon, which makes up for it."""
    norm_batch: int = 256
    """Images over which batch norm takes its statistics, unless `norm_batch` is set or a batch is smaller."""


@dataclass
class ResNet18:
    """ResNet-18 for small images, the familiar reference."""

    name: str = "resnet18"
    width: int = 64
    """Filters of the first stage; the others have two, four and eight times as many."""
    norm_batch: int = 128
    """Images over which batch norm takes its statistics, unless `norm_batch` is set or a batch is smaller."""


@dataclass
class Stream:
    """Where the augmented training images come from."""

    mode: str = "precomputed"
    """`precomputed`: from tar shards on disk; `online`: computed while training. The same bytes either way."""
    root: str = MISSING
    """Folder of the precomputed streams, or a URL (http, s3 or another protocol of fsspec) to read them from."""
    cache: str = MISSING
    """Folder in which the shards from a URL are kept, for later runs too."""
    seed: int = MISSING
    """Seed of the order and the augmentation of the images."""
    epochs: int | None = None
    """Epochs to precompute; null for as many as the plan expects to need. Without a time limit at least those."""
    max_gb: float = 50.0
    """Gigabytes that all streams together may take; the least recently used go first."""
    verify: bool = True
    """Check each shard against its sha256 when it is first read. Its size, and shards of a URL, are always checked."""

    @property
    def is_remote(self) -> bool:
        """Whether the streams are read from a server."""
        return "://" in self.root

    @property
    def folder(self) -> Path:
        """Where the shards lie on this machine."""
        return Path(self.cache if self.is_remote else self.root)


@dataclass
class Trainer:
    """The hardware that trains."""

    accelerator: str = "auto"
    """`auto`, `cpu` or `gpu`."""
    devices: int = 1
    """Number of GPUs, or of processes on a CPU."""
    strategy: str = "auto"
    """Lightning's strategy: `auto` or `ddp`."""
    precision: str = "auto"
    """`bf16`, `fp32`, or `auto`: bf16 where the hardware is faster with it, else fp32."""
    channels_last: bool = True
    """Keep the channels of a pixel together in memory, which convolutions prefer."""
    keep_memory: bool = True
    """On a CPU under Linux, have the C library keep freed memory instead of giving it back in every step."""
    num_threads: int | None = None
    """CPU threads that compute; null for torch's choice."""
    compile: bool | None = None
    """Compile the training step (`torch.compile`); null for on GPUs only, where it pays."""


@dataclass
class Budget:
    """How long a run may take."""

    seconds: float | None = 1000.0
    """Seconds for what `counts` names; null for no limit (the run is then deterministic)."""
    counts: list[str] = field(default_factory=lambda: ["train", "validate"])
    """Segments of the run's clock that the budget limits: setup, probe, precompute, compile, train, validate,
    checkpoint, test."""


@dataclass
class Validate:
    """Scores during training, for the curves. The result is the test split's, scored once at the end."""

    on: str = "test"
    """`test`: curves on test images, for looking only; `holdout`: on `dataset.holdout`, for tuning; `none`."""
    every: float = 1.0
    """Epochs between two scores."""
    samples: int | None = 2000
    """How many images to score, evenly spread over the split; null for all. The held-out part is scored whole at
    the end of training all the same."""


@dataclass
class Average:
    """An average of the weights over the steps, which is what is tested and saved in the end."""

    kind: str = "none"
    """`none`; `ema`: an exponential moving average, of which validations are too; `lookahead`: slow weights, from which
    the learning ones begin anew each time."""
    every: int = 5
    """Optimizer steps between two times that the average takes the weights in."""
    decay: float = 0.95
    """Share of the average that each step leaves; with `lookahead` at the end of the run, and less before."""


@dataclass
class TTA:
    """Test-time augmentation: what `accuracy_tta` is scored with, beside `accuracy` without."""

    mirror: bool | None = None
    """Score each image and its mirror image; null for if the training images are mirrored (`dataset.flip` above 0)."""
    shift: int = 1
    """Score each image moved along the diagonal by so many pixels, both ways, too; 0 for not."""
    around: bool = False
    """Score it moved by so many pixels in all eight directions instead."""
    below: float = 1.0
    """Only images whose highest probability is below this; 1 for all."""


@dataclass
class Checkpoint:
    """What is kept of the trained network."""

    save: bool = True
    """Write `last.ckpt`: as training goes on, when a signal ends the run, and at the end of training."""
    every: float | None = 60.0
    """Seconds between two checkpoints during training; null for none but those of a signal and of the end."""


@dataclass
class Sweep:
    """What holds for the runs of a sweep together."""

    resume: str | None = None
    """Go on with a sweep, by the same command: its folder, or `auto` for the newest that is not whole (a new one if
    there is none). Finished runs are kept, unfinished ones go on, failed ones are tried again."""
    explain: bool = False
    """At the end, write a report of where the networks look with and without augmentation (see fastconv.explain)."""
    article: bool = False
    """At the end, write a page of the runs on each data set, with and without augmentation: `article.html`."""


@dataclass
class Config:
    """A run."""

    dataset: Dataset = field(default_factory=Dataset)
    model: Any = MISSING
    augment: Policy = field(default_factory=Policy)
    optimizer: Any = MISSING
    schedule: Any = MISSING
    average: Average = field(default_factory=Average)
    stream: Stream = field(default_factory=Stream)
    trainer: Trainer = field(default_factory=Trainer)
    budget: Budget = field(default_factory=Budget)
    validate: Validate = field(default_factory=Validate)
    tta: TTA = field(default_factory=TTA)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    sweep: Sweep = field(default_factory=Sweep)
    experiment: str | None = None
    """Name of the experiment, written by its config."""
    seed: int = 0
    """Seed of the network's first weights, and of the stream unless stream.seed is set."""
    batch_size: int = MISSING
    """Images per optimizer step, over all devices."""
    norm_batch: int = MISSING
    """Images over which batch norm takes its statistics: the part of a batch that is computed at once."""
    rest: float = 0.0
    """Share of the training images, in [0, 0.5), that rest in each epoch: those that a small network knows best after
    an epoch of its own, each in every other epoch."""
    label_smoothing: float = 0.0
    """Share of each label, in [0, 1), that is spread over all classes."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""
    outputs: str = "outputs"
    """Folder in which each run makes its own."""
    figures: bool = True
    """Draw the run's figures and, for TensorBoard, the network's graph: some seconds before and after training, which
    the budget does not count."""
    choose: list[str] = field(default_factory=list)
    """What to choose by what the budget affords on this machine (`experiment=best`), unless it is set on the command
    line: model, epochs, batch_size, flip, augment, rest, tta."""
    resume: str | None = None
    """Go on with an unfinished run: the folder of one, or `auto` for the newest with this configuration (a new run if
    there is none)."""
    plan_only: bool = False
    """Print the plan and stop."""
    verify: bool = False
    """precompute: check every shard against its sha256 and write damaged ones again."""
    prune: bool = False
    """precompute: remove the least recently used streams until the rest fits in stream.max_gb."""


def model_settings(model: Any) -> dict:
    """What of a model's config is for the network itself."""
    return {key: value for key, value in asdict(model).items() if key not in ("name", "norm_batch")}
