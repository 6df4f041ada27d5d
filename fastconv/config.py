"""The typed configuration: what can be set, and what it means.

The dataclasses here and the values they hold (`Policy`, `OneCycle`, `SGD`, ...) are the schema behind `conf/`: their
fields are the keys of the command line, their field docs are its help.
"""

import secrets
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fastconv.data.plan import Policy
from fastconv.errors import InputError, nearest
from fastconv.optim import SGD
from fastconv.saliency.method import Method
from fastconv.schedule import Constant, Cosine, Linear, OneCycle, Step

# In a wheel the configs lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())


@dataclass
class Dataset:
    """Which images, and what is true of them whatever the recipe."""

    name: str = MISSING
    """The source: digits, mnist, fashion_mnist or cifar10."""
    holdout: float = 0.0
    """Share of the training images, in [0, 1), held out (the same of every class) for tuning."""
    holdout_seed: int = 0
    """Seed of the choice of held-out images."""
    flip: float = 0.5
    """Chance of a mirrored image in `augment=flip` and `standard`; 0 where mirroring changes the class."""
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
    norm_batch: int = 256
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
    """`bf16`, `fp32`, or `auto`: bf16 where the hardware computes with it, else fp32."""
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
    stream: Stream = field(default_factory=Stream)
    trainer: Trainer = field(default_factory=Trainer)
    budget: Budget = field(default_factory=Budget)
    validate: Validate = field(default_factory=Validate)
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
    label_smoothing: float = 0.0
    """Share of each label, in [0, 1), that is spread over all classes."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""
    outputs: str = "outputs"
    """Folder in which each run makes its own."""
    figures: bool = True
    """Draw the run's figures and, for TensorBoard, the network's graph: some seconds before and after training, which
    the budget does not count."""
    resume: str | None = None
    """Go on with an unfinished run: the folder of one, or `auto` for the newest with this configuration (a new run if
    there is none)."""
    plan_only: bool = False
    """Print the plan and stop."""
    verify: bool = False
    """precompute: check every shard against its sha256 and write damaged ones again."""
    prune: bool = False
    """precompute: remove the least recently used streams until the rest fits in stream.max_gb."""


@dataclass
class RangeTest:
    """A learning rate that grows by the same factor from step to step."""

    min_lr: float = 1e-4
    """Learning rate of the first step."""
    max_lr: float = 10.0
    """Learning rate of the last step."""
    steps: int = 100
    """Optimizer steps between them, both ends included."""
    early_stop_threshold: float | None = 4.0
    """End when the loss, as a mean of five steps, is so many times its lowest, as Lightning and fastai do; null to go
    on. A loss that is not finite always ends the test."""


@dataclass
class LrFind(Config):
    """A learning-rate range test of a run. What only matters later (budget, validate, checkpoint, ...) changes nothing
    in it, and `stream.mode` nothing at all: the images are computed while they are needed."""

    range_test: RangeTest = field(default_factory=RangeTest)


@dataclass
class Compare:
    """Tables, and a page, of many runs."""

    runs: Any = "outputs"
    """A folder, or a list of folders, below which runs lie."""
    by: str = "settings"
    """A row for each group of runs that differ in their `settings`, over seeds; or one for each of the `runs`."""
    where: Any = None
    """Only runs of which a setting or a result has a value, key:value; of several, [a:1,a:2,b:3], one for each key."""
    measure: str | None = None
    """What makes the best: accuracy, accuracy_tta or accuracy_holdout; null for that of the held-out images if all
    runs scored some, else of the test images."""
    sort: str | None = None
    """The column to sort by, from its better end, with a - before it from the other; null for the best first."""
    format: str = "table"
    """`table` for the terminal, `csv`, `markdown` or `json`."""
    page: str | None = None
    """File for a page with sortable tables and plots, such as compare.html."""


@dataclass
class Explain:
    """A report of where networks look."""

    run: Any = MISSING
    """Folder of a trained run, or a list of folders [a,b] of runs that differ only in their seed."""
    against: Any = None
    """Folder of the run to compare it with, or as many folders as `run` has, in the same order."""
    names: list[str] | None = None
    """What figures call `run` and `against`; null for what differs between them."""
    folder: str | None = None
    """Where the report goes; null for `explain` in the folder of the run, or `explain-against-...` there."""
    methods: dict[str, Any] = field(default_factory=dict)
    """The methods by name, chosen by the group `method`; one of your own: +methods.mine.captum=Lime."""
    images: Any = None
    """Image files to explain instead of test images, such as [a.png,b.jpg] or 'pictures/*.png'."""
    per_class: int = 10
    """Test images drawn of each class. These are measured."""
    mistakes: int = 8
    """Surest mistakes to show."""
    hits: int = 8
    """Least sure hits to show."""
    candidates: int = 2000
    """Test images among which mistakes and hits are looked for."""
    target: str = "answer"
    """The class that is explained: the network's `answer`, or the `label`."""
    measures: bool = True
    """Measure the maps, which takes several times as long as making them."""
    steps: int = 20
    """Parts in which pixels go or come for deletion and insertion."""
    perturbations: int = 10
    """Squares removed from each image for infidelity."""
    control_images: int = 50
    """Images on which maps are compared with those of random weights, and with themselves under noise."""
    sensitivity_images: int = 20
    """Images on which max-sensitivity is measured."""
    batch_size: int = 256
    """Images, counting the copies that a method makes of them, to compute at once."""
    seed: int = 0
    """Seed of the choice of images, of the methods' noise and of the controls."""
    accelerator: str = "auto"
    """`auto`, `cpu` or `gpu`."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""

    def folders(self) -> tuple[list[Path], list[Path]]:
        """The folders that `run` and `against` name."""
        sides = (
            each if isinstance(each, list) else [] if each is None else [each] for each in (self.run, self.against)
        )
        first, second = ([Path(str(folder)) for folder in side] for side in sides)
        return first, second


# The commands' configs, by the name of their file in `conf/`.
SCHEMAS = {"config": Config, "compare": Compare, "explain": Explain, "lr_find": LrFind}


def register() -> None:
    """Put the schema where the files in `conf/` find it: under `_schema`, or `_NAME` where a group's options differ."""
    store = ConfigStore.instance()
    store.store(name="_schema", node=_settable(Config))
    store.store(name="_compare", node=_settable(Compare))
    store.store(name="_explain", node=_settable(Explain))
    store.store(name="_lr_find", node=_beyond_a_run(LrFind))
    store.store(group="dataset", name="_schema", node=_settable(Dataset))
    store.store(group="augment", name="_schema", node=_settable(Policy))
    store.store(group="stream", name="_schema", node=_settable(Stream))
    store.store(group="trainer", name="_schema", node=_settable(Trainer))
    store.store(group="model", name="_davidnet", node=_settable(DavidNet))
    store.store(group="optimizer", name="_sgd", node=_settable(SGD))
    for schedule in (OneCycle, Constant, Cosine, Linear, Step):
        store.store(group="schedule", name=f"_{schedule().name}", node=_settable(schedule))


def typed(values: DictConfig) -> DictConfig:
    """A run's config as it was stored, with the schema's types again.

    Raises whatever OmegaConf does for values that do not fit.
    """
    register()
    schema, store = _settable(Config), ConfigStore.instance()
    for group in ("model", "optimizer", "schedule"):
        schema[group] = store.load(f"{group}/_{values[group].name}.yaml").node
    return OmegaConf.merge(schema, values)


def methods(config: Explain) -> dict[str, Method]:
    """The attribution methods of a config, by name. Raises InputError for keys or values that `Method` has not."""
    found, known = {}, [each.name for each in fields(Method)]
    for name, values in config.methods.items():
        if not isinstance(values, dict):
            raise InputError(
                f"methods.{name}={values} cannot be set as a whole: set its keys, methods.{name}.captum first"
            )
        for key in values:
            if key not in known:
                raise InputError(f"unknown key methods.{name}.{key}{nearest(key, known)} --help lists all keys")
        if not values.get("captum"):
            raise InputError(f"methods.{name}.captum has no value: give a class of captum.attr, such as Lime")
        try:
            found[name] = OmegaConf.to_object(OmegaConf.merge(_settable(Method), values))
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"methods.{name}.{error.full_key or '?'}: {reason}") from error
    return found


def _part(batch_size: int, devices: int, norm_batch: int) -> int:
    """The model's `norm_batch`, or a device's whole share of a batch that is smaller; two images at least."""
    return min(norm_batch, max(2, batch_size // max(1, devices)))


def _beyond_a_run(schema: type[Config]) -> DictConfig:
    """A config node that adds to a run's config what `schema` has beyond it, and changes nothing else."""
    node = _settable(schema)
    for key in fields(Config):
        node[key.name] = MISSING
    return node


def _settable(schema: type) -> DictConfig:
    """A config node of a dataclass whose values can be overridden even if the dataclass is frozen."""
    node = OmegaConf.structured(schema)

    def thaw(config: DictConfig) -> None:
        config._set_flag("readonly", None)
        for key in config:
            child = config._get_node(key)
            if isinstance(child, DictConfig):
                thaw(child)

    thaw(node)
    return node


# At import, so that a process that a sweep's launcher starts knows them too.
OmegaConf.register_new_resolver("part", _part, replace=True)
OmegaConf.register_new_resolver("short_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
