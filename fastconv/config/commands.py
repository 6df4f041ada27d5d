"""The typed configurations of all commands but `train` and `precompute`: their settings and what each one means."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fastconv.config.schema import ACCELERATORS, Config
from fastconv.runs.results import MEASURES
from fastconv.system.settings import BATCH, POSITIVE, Range, setting


def as_list(value: Any) -> list[Any]:
    """The values of a key that takes one value, a list of values, or null for none."""
    return value if isinstance(value, list) else [] if value is None else [value]


@dataclass
class RangeTest:
    """A learning-rate range test: the learning rate is multiplied by the same factor after each step."""

    min_lr: float = setting(1e-4, POSITIVE)
    """Learning rate of the first step."""
    max_lr: float = setting(10.0, POSITIVE)
    """Learning rate of the last step."""
    steps: int = setting(100, Range("a number of steps", 20, 100_000))
    """Optimizer steps of the test, the first and the last included."""
    early_stop_threshold: float | None = setting(
        4.0, Range("a factor", 1, 1e9, closed="right", note=", or null for no early stop")
    )
    """Stop when the mean loss of five steps reaches this multiple of its lowest value, as Lightning and fastai do; null
    to go on. A loss that is not finite always ends the test."""


@dataclass
class LrFind(Config):
    """A learning-rate range test of a run. Settings that matter only later in a run (budget, validate, checkpoint, ...)
    have no effect on it. Neither has `stream.mode`: the images are augmented as they are needed."""

    range_test: RangeTest = field(default_factory=RangeTest)


@dataclass
class Compare:
    """A comparison of many runs, as a table and a page."""

    runs: Any = setting("outputs", path=True, local=True)
    """The folder that contains the runs, or a list of such folders; `latest` for the newest finished run, with all runs
    of its sweep."""
    by: str = setting("settings", options=("settings", "runs"))
    """`settings`: one row for each group of runs that differ only in their seeds; `runs`: one row for each run."""
    where: Any = setting(None, text=True)
    """Include only runs in which a setting or a result has this value, key:value. In a list such as [a:1,a:2,b:3] a run
    must match one value of each key. Null for all runs."""
    measure: str | None = setting(None, options=MEASURES)
    """The result that decides which run is best: accuracy, accuracy_tta, balanced_accuracy, macro_f1, or on held-out
    images accuracy_holdout, accuracy_holdout_tta, balanced_accuracy_holdout, macro_f1_holdout. Null for the objective
    that all runs share, else accuracy; on held-out images if all runs scored some."""
    sort: str | None = None
    """The column to sort by, better values first; a - before its name reverses the order. Null sorts by `measure`."""
    format: str = setting("table", options=("table", "csv", "markdown", "json"))
    """Format of the printed table: `table` for reading in a terminal, `csv`, `markdown` or `json`."""
    page: str | None = setting(None, path=True, local=True)
    """File to write a page with sortable tables and plots to, such as compare.html; null for no page."""
    outputs: str = setting("outputs", path=True, local=True)
    """Folder below which `latest` looks for the newest finished run."""


@dataclass(frozen=True)
class Method:
    """An attribution method: it shows which pixels a network's prediction depends on."""

    captum: str
    """Class of `captum.attr`, such as `IntegratedGradients`."""
    title: str | None = None
    """Name of the method in figures and tables; null for the name of the class."""
    layer: str | None = None
    """For methods that attribute to a layer: `last` for the network's last block whose map still has several positions
    (4x4 in DavidNet for 32x32 images), `fine` for the block before it, or the name of one of its modules."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of Captum's `attribute`, such as `{n_steps: 32}`."""
    baseline: str = setting("auto", options=("auto", "black", "mean", "images"))
    """The value of an absent pixel, for methods that need one: `black`, `mean` (of the training images), `images` (32
    training images), or `auto`: black if the images have a black background, else mean."""
    noise_samples: int = setting(0, Range("a number of noisy copies", 0, 1000))
    """Noisy copies of each image over which the map is averaged (SmoothGrad, Smilkov et al. 2017); 0 for none."""
    noise: float = setting(0.15, Range("a share of the range of pixel values", 0, 10))
    """Standard deviation of that noise, as a share of the range of pixel values."""
    window: float | None = setting(None, Range("a share of the image's side", 0, 1, closed="right"))
    """For Occlusion: side of the covered square, as a share of the image's side. The square moves by half its side."""


@dataclass
class GivenImages:
    """Where the images of a run's data set are now, if not where its config.yaml says. Give URLs with passwords or
    signatures again here, since these are not stored."""

    root: str | None = setting(None, path=True, local=True)
    """Where the folder or file of the run's `dataset.root` is now, such as dataset.root=photos; null if it has not
    moved."""
    train: Any = setting(None, path=True)
    """Where the table or the tars of the run's `dataset.train` are now (paths or URLs); null if they have not moved."""
    test: Any = setting(None, path=True)
    """The same for `dataset.test`."""


@dataclass
class RunCommand:
    """Settings of a command that reads a trained run."""

    run: str = setting(MISSING, path=True, local=True)
    """Folder of a trained run; `latest` for the newest finished one."""
    trust: bool = False
    """Run the code that `_target_` entries in the run's files name, and open URLs in them. Set it only for files you
    trust."""
    outputs: str = setting("outputs", path=True, local=True)
    """Folder below which `latest` looks for the newest finished run."""


@dataclass
class RunImagesCommand(RunCommand):
    """Settings of a command that reads a trained run and the images of its data set."""

    data: str | None = setting(None, path=True, local=True)
    """Folder of the data sets. The environment variable FASTCONV_DATA sets its default; without it, null is the folder
    that the run was trained with, if fastconv has stored images there, else `data`."""
    dataset: GivenImages = field(default_factory=GivenImages)


@dataclass
class Explain(RunImagesCommand):
    """A report of heatmaps and their measures."""

    run: Any = setting(MISSING, path=True, local=True)
    """Folder of a trained run, or a list of folders [a,b] of runs that differ only in their seed; `latest` for the
    newest finished run."""
    against: Any = setting(None, path=True, local=True)
    """Folder of the run to compare `run` with, or a list of the same number of folders, in the same order; null for
    none."""
    names: list[str] | None = None
    """Names of `run` and `against` in figures; null to name them by the settings that differ."""
    folder: str | None = setting(None, path=True, local=True)
    """Folder of the report; null for `explain`, or `explain-against-...`, in the folder of the run."""
    methods: dict[str, Any] = field(default_factory=dict)
    """The attribution methods by name. The group `method` chooses them; add your own with +methods.mine.captum=Lime."""
    images: Any = setting(None, path=True, local=True)
    """Image files to explain, such as [a.png,b.jpg] or 'pictures/*.png'; null for test images."""
    per_class: int = setting(10, Range("a number of images", 1, 1e6))
    """Test images drawn from each class. The measures are computed on these."""
    errors: int = setting(8, Range("a number of images", 0, 1e6))
    """Number of the most confident errors to show."""
    correct: int = setting(8, Range("a number of images", 0, 1e6))
    """Number of the least confident correct predictions to show."""
    candidates: int = setting(2000, Range("a number of images", 1, 1e9))
    """Number of test images from which errors and correct predictions are chosen."""
    target: str = setting("prediction", options=("prediction", "label"))
    """The class to explain: the network's `prediction`, or the `label`."""
    measures: bool = True
    """Measure how faithful the maps are, which takes several times as long as computing them."""
    steps: int = setting(20, Range("a number of parts", 1, 1000))
    """Steps in which deletion removes the pixels and insertion adds them."""
    perturbations: int = setting(10, Range("a number of squares", 2, 1000))
    """Squares removed from each image to measure infidelity."""
    control_images: int = setting(50, Range("a number of images", 2, 1e6))
    """Images on which maps are compared with those of a network with random weights, and with those of noisy copies."""
    sensitivity_images: int = setting(20, Range("a number of images", 1, 1e6))
    """Images on which max-sensitivity is measured."""
    batch_size: int = setting(256, BATCH)
    """Images to compute at once, including the copies that a method makes of them; fewer of images above 64x64."""
    seed: int = setting(0, Range("a whole number", 0, 2**32, closed="left"))
    """Seed for the choice of images, the noise of the methods, and the controls."""
    accelerator: str = setting("auto", options=ACCELERATORS)
    """Hardware to compute on: `cpu`, `gpu`, or `auto` for a GPU if there is one."""

    def folders(self) -> tuple[list[Path], list[Path]]:
        """The folders that `run` and `against` name."""
        first, second = ([Path(str(folder)) for folder in as_list(side)] for side in (self.run, self.against))
        return first, second


@dataclass
class Predict(RunCommand):
    """Classification of images by a trained network."""

    images: Any = setting(MISSING, path=True)
    """The images to classify: a file, folder, tar or URL, a pattern such as 'photos/*.jpg' or 'photos/**/*.jpg', or a
    list [a,b] of them."""
    out: str = setting("predictions.csv", path=True, local=True)
    """File to write: .csv, .jsonl (one JSON object per line), or - to print JSON to the terminal."""
    top: int = setting(1, Range("a number of classes", 1, 100_000))
    """Number of the most probable classes to write for each image; all of them if the network has fewer."""
    tta: bool = False
    """Use the run's test-time augmentation (its `tta`). The time grows with the number of views."""
    accelerator: str = setting("auto", options=ACCELERATORS)
    """Hardware to compute on: `cpu`, `gpu`, or `auto` for a GPU if there is one."""


@dataclass
class Evaluate(RunImagesCommand):
    """The score of a trained network, and the page of its run."""

    tta: bool = False
    """Use the run's test-time augmentation (its `tta`)."""
    accelerator: str = setting("auto", options=ACCELERATORS)
    """Hardware to compute on: `cpu`, `gpu`, or `auto` for a GPU if there is one."""


@dataclass
class Export(RunImagesCommand):
    """Export of a trained network to files."""

    format: Any = setting(["onnx", "torch"], options=("onnx", "torch"))
    """Formats to write: onnx (model.onnx), torch (model.pt2, from torch.export), or a list of both."""
    samples: int = setting(500, Range("a number of images", 1, 1e6))
    """Number of test images on which each file is compared with the checkpoint."""
