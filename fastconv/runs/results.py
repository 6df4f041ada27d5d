"""The results of a run: one `results.json` per run, from which every table and plot is made."""

import functools
import importlib.metadata
import math
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from fastconv.runs.legacy import current_results
from fastconv.system.documents import ALWAYS_PLAIN, read_json
from fastconv.system.files import PACKAGE, write_atomically
from fastconv.system.json_text import as_json
from fastconv.system.names import printable
from fastconv.system.urls import redact

# Results that a run can be judged by (`objective`); of held-out images they end in _holdout.
OBJECTIVES = ("accuracy", "balanced_accuracy", "macro_f1")
# Results by which runs can be ranked: higher is better. In the latter each class counts the same.
ACCURACIES = ("accuracy", "accuracy_tta", "accuracy_holdout", "accuracy_holdout_tta")
CLASS_MEASURES = ("balanced_accuracy", "macro_f1", "balanced_accuracy_holdout", "macro_f1_holdout")
MEASURES = (*ACCURACIES, *CLASS_MEASURES)
# Reasons to stop of runs that were trained and scored.
FINISHED = ("epochs", "budget")
# The reason to stop of a run that its search ended early: it has no result, and nothing is left to do.
PRUNED = "pruned"
PACKAGES = ("torch", "torchvision", "lightning", "numpy")
# Results that are shares, in [0, 1].
SHARES = (*MEASURES, "kappa", "expected_calibration_error", "expected_calibration_error_unscaled")
# No result is larger, no text longer, and no run has more settings.
MOST, MOST_TEXT, MOST_SETTINGS = 2**64, 10_000, 1000


@dataclass(frozen=True)
class Results:
    """The keys of `results.json`. Values that a run did not reach are null.

    Accuracies are shares in [0, 1]. `stop_reason` is `epochs`, `budget`, `pruned`, `error` or `interrupt`; it is null
    while the run goes on, or if it was killed. A running run updates the file every second.
    """

    dataset: str
    model: str
    experiment: str | None
    seed: int
    stream_seed: int
    accuracy: float | None = None
    """Accuracy on the test split, with the weights of the last step."""
    accuracy_tta: float | None = None
    """Accuracy on the test split with test-time augmentation (`tta`)."""
    test_skipped: int = 0
    """Number of test images that were not scored because the budget had no time left for them: the results on the test
    split are those of an even sample of the others."""
    tta_skipped: int = 0
    """Number of test images scored without test-time augmentation because the budget had no time left for it."""
    tta_views: dict[str, int] = field(default_factory=dict)
    """Number of test images by the number of views that each was scored in, where the budget limits that time."""
    accuracy_holdout: float | None = None
    """Accuracy on the held-out training images, with the weights of the last step."""
    accuracy_holdout_tta: float | None = None
    """Accuracy on the held-out training images with test-time augmentation."""
    loss: float | None = None
    """Cross-entropy on the test split."""
    temperature: float | None = None
    """Divisor of the logits before the softmax; null if labels were not smoothed."""
    expected_calibration_error: float | None = None
    """Mean distance of confidence and accuracy on the test split (15 bins, Guo et al. 2017), with the temperature."""
    expected_calibration_error_unscaled: float | None = None
    """The same without the temperature."""
    balanced_accuracy: float | None = None
    """Mean of the classes' recalls on the test split."""
    macro_f1: float | None = None
    """Mean of the classes' F1 scores on the test split."""
    kappa: float | None = None
    """Cohen's kappa on the test split: 1 if all predictions are right, 0 if no more are than by chance."""
    balanced_accuracy_holdout: float | None = None
    """Mean of the classes' recalls on the held-out training images."""
    macro_f1_holdout: float | None = None
    """Mean of the classes' F1 scores on the held-out training images."""
    epochs: float | None = None
    steps: int | None = None
    pretrained: str | None = None
    """The weights that the network began with, such as `resnet18 IMAGENET1K_V1`; null if it was trained from
    scratch."""
    batch_size: int | None = None
    micro_batch_size: int | None = None
    budget_seconds: float | None = None
    budget_counts: list[str] = field(default_factory=list)
    budget_until: str | None = None
    """The moment by which the run had to be over (`budget.until`), with its offset from UTC; null for none."""
    slurm_job: str | None = None
    """Number of the SLURM job in which the run was last; null outside of one."""
    seconds_counted: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each segment of the clock."""
    petaflop: float | None = None
    """Floating-point operations of training, forward and backward, in units of 10**15 (see fastconv.budget.flops)."""
    images_per_second: float | None = None
    """Training images per second of training."""
    dataloader_wait_fraction: float | None = None
    """Share of the training seconds spent waiting for data."""
    weights_digest: str | None = None
    """Digest of the weights that were scored; `last.ckpt` has the same (see fastconv.models.weights)."""
    parameters: int | None = None
    peak_memory_mb: float | None = None
    """Peak memory in MB: of the process on a CPU, of the device on a GPU."""
    test_digest: str | None = None
    """Of your own images, the first 16 hex digits of a sha256 of the test split: runs with another one were scored on
    other images. Null for built-in data sets."""
    train_digest: str | None = None
    """The same of the images to train on and to hold out, in any order: runs with another one had other images."""
    stop_reason: str | None = None
    error: str | None = None
    """Why the run failed."""
    expected_epochs: float | None = None
    expected_seconds: float | None = None
    """Seconds of training and validation that the first plan expected."""
    resumed: int = 0
    """How often the run was resumed."""
    final_lr: float | None = None
    """Learning rate of the last step, as a share of the peak."""
    device: str | None = None
    precision: str | None = None
    threads: list[int] = field(default_factory=list)
    """Numbers of CPU threads that trained, one after the other (`trainer.num_threads`). Empty on a GPU."""
    winograd_layers: int | None = None
    """Number of convolutions that Winograd's algorithm computed (trainer.winograd)."""
    fused_norms: bool | None = None
    """Whether norms and activations were computed in one pass, which trainer.winograd decides too."""
    cuda_graphs: int | None = None
    """Number of CUDA graphs that did the training steps (trainer.graph): 0 if each step was called, null on a CPU."""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    name: str | None = None
    """The name that the run was given."""
    tags: list[str] = field(default_factory=list)
    """The words that the run was given to be found by."""
    overrides: list[str] = field(default_factory=list)
    hparams: dict[str, Any] = field(default_factory=dict)
    """All settings that decided what the run computed, by key."""

    def __post_init__(self) -> None:
        # Also of runs of earlier versions, which stored URLs with their passwords and signatures.
        for key in ("name", "tags", "overrides", "hparams", "error"):
            object.__setattr__(self, key, redact(getattr(self, key)))

    def write(self, run: Path, *, durable: bool = False) -> None:
        """Write `results.json` to a run's folder, atomically. Raises InputError if it cannot be written.

        Args:
            durable: return only when it is on the disk.
        """
        write_atomically(run / "results.json", as_json(vars(self), indent=1).encode(), durable=durable)

    @classmethod
    def read(cls, run: Path) -> "Results":
        """Read a run's `results.json`, which somebody else may have written; keys of later versions are ignored.

        Texts become printable, and numbers that are not known (NaN) null. Raises ValueError for a file with other
        content, OSError if there is none.
        """
        content = read_json(run / "results.json")
        if not isinstance(content, dict):
            raise ValueError("not an object")
        types = _types()
        known = {key: _checked(key, value, *types[key])
                 for key, value in current_results(content).items() if key in types}  # fmt: skip
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(str(error)) from error


Types = tuple[type, ...]


@functools.cache
def _types() -> dict[str, tuple[Types, Types]]:
    """The types that each key may have, and those of the values in it if it is a list or a dict; none for any.

    They are cached: resolving them takes longer than reading a file.
    """
    found = {}
    for key, hint in get_type_hints(Results).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        inner = tuple(each for each in get_args(hint)[-1:] if each is not Any) if get_origin(hint) else ()
        found[key] = (_with_int(tuple(get_origin(each) or each for each in options)), _with_int(inner))
    return found


def _with_int(types: Types) -> Types:
    return (*types, int) if float in types else types


def _checked(key: str, value: Any, types: Types, inner: Types) -> Any:
    """A value of a results file, if it can be one. Raises ValueError, naming the key, if not."""
    if (isinstance(value, bool) and bool not in types) or not isinstance(value, types):
        raise ValueError(f"{key} is {_shortened(value)}")
    if isinstance(value, float) and (math.isnan(value) or (key == "loss" and math.isinf(value))):
        return None
    if isinstance(value, int | float) and not 0 <= value <= (1 if key in SHARES else MOST):
        raise ValueError(f"{key} is {_shortened(value)}")
    if isinstance(value, list | dict):
        if len(value) > MOST_SETTINGS:
            raise ValueError(f"{key} has {len(value):,} entries")
        for each in value.values() if isinstance(value, dict) else value:
            if inner and (isinstance(each, bool) or not isinstance(each, inner)):
                raise ValueError(f"{key} has {_shortened(each)}")
    return readable(key, value)


def readable(key: str, value: Any) -> Any:
    """A value of a run's file with its texts printable. Raises ValueError, naming the key, for a text without end."""
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise ValueError(f"{key} has a text of {len(value):,} characters")
        return printable(value)
    if isinstance(value, list):
        return [readable(key, each) for each in value]
    if isinstance(value, dict):
        return {
            readable(key, name): each if type(each) in ALWAYS_PLAIN else readable(key, each)
            for name, each in value.items()
        }
    return value


def _shortened(value: object) -> str:
    text = printable(repr(value)[:60])
    return text if len(text) < 60 else f"{text}..."


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """The commit of the checkout that fastconv runs from, with `-dirty` if its code or configs differ; else None."""
    git = ["git", "-C", str(PACKAGE)]

    def ask(*command: str) -> str:
        return subprocess.run([*git, *command], capture_output=True, encoding="utf-8", check=True).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", "__init__.py")  # an installed package may be inside another repository
        changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", "../conf")
        return ask("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
