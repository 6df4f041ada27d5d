"""The typed configurations of the commands beside `train` and `precompute`: what can be set, and what it means."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fastconv.config.schema import ACCELERATORS, Config
from fastconv.runs.results import MEASURES
from fastconv.system.settings import BATCH, POSITIVE, Range, setting


def as_list(value: Any) -> list[Any]:
    """The values of a key that takes one or several, or null for none."""
    return value if isinstance(value, list) else [] if value is None else [value]


@dataclass
class RangeTest:
    """A learning rate that grows by the same factor from step to step."""

    min_lr: float = setting(1e-4, POSITIVE)
    """Learning rate of the first step."""
    max_lr: float = setting(10.0, POSITIVE)
    """Learning rate of the last step."""
    steps: int = setting(100, Range("a number of steps", 20, 100_000))
    """Optimizer steps between them, both ends included."""
    early_stop_threshold: float | None = setting(
        4.0, Range("a factor", 1, 1e9, closed="right", note=", or null to go on whatever the loss is")
    )
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
    by: str = setting("settings", options=("settings", "runs"))
    """A row for each group of runs that differ in their `settings`, over seeds; or one for each of the `runs`."""
    where: Any = None
    """Only runs of which a setting or a result has a value, key:value; of several, [a:1,a:2,b:3], one for each key."""
    measure: str | None = setting(None, options=MEASURES)
    """What makes the best: accuracy, accuracy_tta, accuracy_holdout or accuracy_holdout_tta; null for accuracy_holdout
    if all runs scored held-out images, else accuracy."""
    sort: str | None = None
    """The column to sort by, from its better end, with a - before it from the other; null for the best first."""
    format: str = setting("table", options=("table", "csv", "markdown", "json"))
    """`table` for the terminal, `csv`, `markdown` or `json`."""
    page: str | None = None
    """File for a page with sortable tables and plots, such as compare.html."""


@dataclass(frozen=True)
class Method:
    """One way to say which pixels a network's answer comes from."""

    captum: str
    """Class of `captum.attr`, such as `IntegratedGradients`."""
    title: str | None = None
    """What figures and tables call it; null for the class."""
    layer: str | None = None
    """For a layer's method: `last` for the network's last block that tells places apart (4x4 of DavidNet's 32x32
    images), `fine` for the one before, or the name of one of its modules."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of Captum's `attribute`, such as `{n_steps: 32}`."""
    baseline: str = setting("auto", options=("auto", "black", "mean", "images"))
    """What an absent pixel looks like, where the method asks: `black`, `mean` (of the training images), `images` (32 of
    them), or `auto`: black if the images have a black background, else mean."""
    noise_samples: int = setting(0, Range("a number of noisy copies", 0, 1000))
    """Noisy copies of each image over which the map is averaged (SmoothGrad, Smilkov et al. 2017); 0 for none."""
    noise: float = setting(0.15, Range("a share of the range of pixel values", 0, 10))
    """Standard deviation of that noise, as a share of the range of pixel values."""
    window: float | None = setting(None, Range("a share of the image's side", 0, 1, closed="right"))
    """For Occlusion: side of the covered square, as a share of the image's; it moves by half of itself."""


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
    per_class: int = setting(10, Range("a number of images", 1, 1e6))
    """Test images drawn of each class. These are measured."""
    errors: int = setting(8, Range("a number of images", 0, 1e6))
    """Most confident errors to show."""
    correct: int = setting(8, Range("a number of images", 0, 1e6))
    """Least confident correct predictions to show."""
    candidates: int = setting(2000, Range("a number of images", 1, 1e9))
    """Test images among which errors and correct predictions are chosen."""
    target: str = setting("prediction", options=("prediction", "label"))
    """The class that is explained: the network's `prediction`, or the `label`."""
    measures: bool = True
    """Measure the maps, which takes several times as long as making them."""
    steps: int = setting(20, Range("a number of parts", 1, 1000))
    """Parts in which pixels go or come for deletion and insertion."""
    perturbations: int = setting(10, Range("a number of squares", 2, 1000))
    """Squares removed from each image for infidelity."""
    control_images: int = setting(50, Range("a number of images", 2, 1e6))
    """Images on which maps are compared with those of random weights, and with themselves under noise."""
    sensitivity_images: int = setting(20, Range("a number of images", 1, 1e6))
    """Images on which max-sensitivity is measured."""
    batch_size: int = setting(256, BATCH)
    """Images, counting the copies that a method makes of them, to compute at once."""
    seed: int = setting(0, Range("a whole number", 0, 2**32, closed="left"))
    """Seed of the choice of images, of the methods' noise and of the controls."""
    accelerator: str = setting("auto", options=ACCELERATORS)
    """`auto`, `cpu` or `gpu`."""
    trust: bool = False
    """Follow each `_target_` in the files of a run: somebody else may have written them."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""

    def folders(self) -> tuple[list[Path], list[Path]]:
        """The folders that `run` and `against` name."""
        first, second = ([Path(str(folder)) for folder in as_list(side)] for side in (self.run, self.against))
        return first, second


@dataclass
class Predict:
    """Images to classify with a trained network."""

    run: str = MISSING
    """Folder of a trained run."""
    images: Any = MISSING
    """Files, folders or tars of images, one or a list [a,b]."""
    out: str = "predictions.csv"
    """File to write: .csv, .jsonl (a JSON object a line), or - for the terminal, as JSON."""
    top: int = setting(1, Range("a number of classes", 1, 100_000))
    """Likeliest classes to write for each image."""
    tta: bool = False
    """Score each image in the views that the run was tested with (its `tta`), which takes as many times as long."""
    accelerator: str = setting("auto", options=ACCELERATORS)
    """`auto`, `cpu` or `gpu`."""
    trust: bool = False
    """Follow each `_target_` in the files of a run: somebody else may have written them."""


@dataclass
class Evaluate:
    """A trained network's score, and the page of its run."""

    run: str = MISSING
    """Folder of a trained run."""
    tta: bool = False
    """Score each image in the views that the run was tested with (its `tta`)."""
    accelerator: str = setting("auto", options=ACCELERATORS)
    """`auto`, `cpu` or `gpu`."""
    trust: bool = False
    """Follow each `_target_` in the files of a run: somebody else may have written them."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""


@dataclass
class Export:
    """A trained network as files."""

    run: str = MISSING
    """Folder of a trained run."""
    format: Any = setting(["onnx", "torch"], options=("onnx", "torch"))
    """Formats to write: onnx (model.onnx), torch (model.pt2, of torch.export), or both."""
    samples: int = setting(500, Range("a number of images", 1, 1e6))
    """Test images on which each file is compared with the checkpoint."""
    trust: bool = False
    """Follow each `_target_` in the files of a run: somebody else may have written them."""
    data: str = "data"
    """Folder of the data sets (FASTCONV_DATA)."""
