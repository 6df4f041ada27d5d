"""A trained run, read back from its folder: its network, its configuration and its results."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from fastconv.config.commands import GivenImages
from fastconv.config.schema import Config
from fastconv.config.store import stored
from fastconv.config.trust import check_stored, require_local
from fastconv.data.configs import RESIZES
from fastconv.data.dataset import ImageData
from fastconv.data.own_images import LARGEST_SIDE
from fastconv.data.sources.levels import Levels
from fastconv.data.split_record import FILE, SplitRecord
from fastconv.models import blueprint, build_model
from fastconv.models.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE, TEMPERATURE
from fastconv.models.weights import DIGEST, weights_digest
from fastconv.models.whitening import Whitening
from fastconv.runs.checkpoint import load_checkpoint
from fastconv.runs.results import FINISHED, Results
from fastconv.system.errors import InputError, message_of
from fastconv.system.signals import obey
from fastconv.system.targets import KEY, require_trust

# Classes that a checkpoint may claim at most.
MOST_CLASSES = 100_000
# The smallest deviation of pixels: one level more in one of 10^18 pixels.
LEAST_STD = 1e-12


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder with what was read from it; the network takes normalised images, float [B, C, H, W]."""

    folder: Path
    config: Config
    results: Results | None
    model: nn.Module
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: dict[str, Any]
    """The network's own, such as `width`."""
    temperature: float | None = None
    """Divisor of the logits before the softmax; None for 1."""
    levels: Levels | None = None
    """How pixel values of more than eight bits became bytes; None if the run is of an earlier version."""
    resize: str = "crop"
    """How images that are not square become so (`RESIZES`); earlier versions cropped them."""
    trusted: bool = False
    """Whether the user trusts the author of the folder."""

    def with_images(self, given: GivenImages) -> "TrainedRun":
        """The same run with its images where the user says; what is not given is as the run has it.

        Raises InputError if the images are behind a URL that the user has neither given nor trusted, and for a setting
        that the run's kind of data set does not have.
        """
        changes = {key: value for key, value in asdict(given).items() if value is not None}
        dataset = self.config.dataset
        for key in changes:
            if key not in dataset.places:
                raise InputError(
                    f"dataset.{key} is not possible: {self.folder} was trained with dataset.source={dataset.source}"
                )
        stored = {key: value for key, value in asdict(dataset).items() if key not in changes}
        require_local(stored, self.folder / "config.yaml", self.trusted, prefix="dataset.")
        return replace(self, config=replace(self.config, dataset=replace(dataset, **changes)))

    def data_folder(self, given: str | None) -> Path:
        """The folder of the data sets: the given one, else that of the run if fastconv has written there, else `data`.

        The run's folder may be somebody else's, so no other folder that it names is written to.
        """
        own = Path(self.config.data)
        if given is not None:
            return Path(given)
        return own if (own / "arrays").is_dir() else Path(Config.data)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    def require_same_data(self, images: ImageData) -> None:
        """Raise InputError for images that are not as those that the network was trained on."""
        if images.classes != self.classes or images.images.shape[1:] != self.shape:
            raise InputError(f"{self.folder} has other classes or images than {images.name}: its data set has changed")
        if self.levels and images.levels and self.levels != images.levels:
            raise InputError(
                f"{images.name} has images of more than 8 bits, whose scaling has changed since {self.folder} was"
                " trained, because images were added or removed: restore the data set"
            )

    def untrained(self) -> nn.Module:
        """The same network with new first weights, drawn from torch's global generator.

        What whitens or normalises its images stays: it was computed from them, and not learned.
        """
        model = build_model(self.config.model.name, self.shape[2], len(self.classes), **self.settings)
        whitening, learned = getattr(model, "whitening", None), getattr(self.model, "whitening", None)
        if isinstance(whitening, Whitening) and isinstance(learned, Whitening):
            whitening.weight.data.copy_(learned.weight)
        for name in getattr(model, "computed", ()):
            getattr(model, name).copy_(getattr(self.model, name))
        return model


def load_run(folder: Path, trust: bool = False) -> TrainedRun:
    """Read a run's folder, and check that its checkpoint is the network that its results are of.

    Args:
        folder: of a run, which somebody else may have written.
        trust: follow each `_target_` in its files, which runs code.

    Raises InputError if it is none, has no checkpoint, or one that is damaged or of another network, or if
    it names code and is not trusted.
    """
    try:
        config: Any = OmegaConf.to_object(stored(folder))
        check_stored(config)
    except Exception as error:  # whatever is wrong with the file, it is not a run's
        obey()  # OmegaConf may have made another error of a signal
        why = "" if isinstance(error, FileNotFoundError) else f" ({message_of(error, 200)})"
        raise InputError(
            f"{folder} is not the folder of a run: it has no readable config.yaml{why}. Give one such as"
            " outputs/digits/2026-11-25_09-00-00-a1b2c3"
        ) from error
    require_trust(asdict(config), folder / "config.yaml", trust)
    path = folder / "last.ckpt"
    if not path.exists():
        raise InputError(
            f"{folder} has no last.ckpt: the run has saved no checkpoint. Train it with"
            " checkpoint.save=true, or choose another run"
        )
    try:
        checkpoint = load_checkpoint(path)
        network = checkpoint["network"]
        shape, classes, settings = tuple(network["shape"]), tuple(network["classes"]), dict(network["settings"])
        name, mean, std = network["model"], tuple(network["mean"]), tuple(network["std"])
        levels = Levels.from_dict(network.get("levels"))
        resize = network.get("resize", "crop")
        temperature = checkpoint.get(TEMPERATURE)
        state = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
        _require_possible(shape, classes, mean, std, state, temperature)
        if resize not in RESIZES:
            raise ValueError
        _require_numbers(mean, std, state)
        is_same = name == config.model.name and all(
            getattr(config.model, key, None) == value for key, value in settings.items()
        )
    except Exception as error:  # a file may hold anything
        obey()
        why = f" ({message_of(error)})" if isinstance(error, InputError) else ""
        raise InputError(f"{path} is damaged or not fastconv's, and cannot be read{why}: choose another run") from error
    other = f"{path} is of another network than the config.yaml beside it: put the run's own checkpoint there"
    if not is_same or not (KEY in settings or _fits(state, name, shape, classes, settings)):
        raise InputError(other)
    _require_same_shape(path, shape, config)
    model = build_model(name, shape[2], len(classes), **settings)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(other) from error
    try:
        results = Results.read(folder)
    except (OSError, ValueError):
        results = None
    _require_own(path, checkpoint, results)
    return TrainedRun(
        folder=folder,
        config=config,
        results=results,
        model=model.eval(),
        shape=shape,
        classes=classes,
        mean=mean,
        std=std,
        settings=settings,
        temperature=temperature,
        levels=levels,
        resize=resize,
        trusted=trust,
    )


def _require_own(path: Path, checkpoint: dict[str, Any], results: Results | None) -> None:
    """Raise InputError if a checkpoint is damaged, or holds other weights than those that the results are of.

    Runs of earlier versions have no digest; of these only the steps are compared, once they are finished.
    """
    digest, step = weights_digest(checkpoint["state_dict"]), checkpoint.get("global_step")
    if not isinstance(step, int | None):
        raise InputError(f"{path} is damaged: its step is no number. Train the network anew")
    if checkpoint.get(DIGEST) not in (None, digest):
        raise InputError(f"{path} is damaged: its weights are not those that were written. Train the network anew")
    if results is None or results.stop_reason not in FINISHED:
        return
    same_step = results.weights_digest is not None or None in (step, results.steps) or step == results.steps
    same_temperature = results.temperature == checkpoint.get(TEMPERATURE)
    if same_step and same_temperature and results.weights_digest in (None, digest):
        return
    raise InputError(
        f"{path} (step {step}) does not belong to results.json (step {results.steps}): the network was not saved, or"
        " one of the two files was replaced. Restore the run's own files, or train again"
    )


def _require_possible(
    shape: Sequence[Any],
    classes: Sequence[Any],
    mean: Sequence[Any],
    std: Sequence[Any],
    state: Mapping[str, Any],
    temperature: Any,
) -> None:
    """Raise ValueError for claims of a checkpoint that no run makes, whatever its network is."""
    numbers = (*mean, *std)
    if not (
        len(shape) == 3
        and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape)
        and shape[2] in (1, 3)
        and 2 <= len(classes) <= MOST_CLASSES
        and all(isinstance(name, str) for name in classes)
        and len(set(classes)) == len(classes)
        and len(mean) == len(std) == shape[2]
        and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        and all(_is_whole(value) for value in state.values())
        and (temperature is None or (type(temperature) is float and MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE))
    ):
        raise ValueError


def _require_numbers(mean: Sequence[float], std: Sequence[float], state: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError for a network whose results would not be numbers. Pixels are scaled to [0, 1]."""
    if any(not 0 <= number <= 1 for number in mean) or any(not LEAST_STD <= number <= 1 for number in std):
        raise InputError("its mean or standard deviation of pixels is out of range")
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"its weights {name[:100]} are not all finite numbers")


def _require_same_shape(path: Path, shape: tuple[int, ...], config: Config) -> None:
    """Raise InputError for a checkpoint of other images than the files beside it say, which could fill the memory."""
    dataset = config.dataset
    others: dict[str, tuple[int, ...]] = {}
    if dataset.image_size is not None and dataset.source != "builtin" and dataset._target_ is None:
        others["config.yaml"] = (dataset.image_size, dataset.image_size, shape[2])
    with contextlib.suppress(InputError):  # a damaged record is told by the commands that need it
        if record := SplitRecord.read(path.parent):
            others[FILE] = record.shape
    for name, other in others.items():
        if other != shape:
            ours, theirs = ("x".join(map(str, each)) for each in (shape, other))
            raise InputError(
                f"{path} is for images of {ours}, but {name} beside it for {theirs}: restore the run's own files"
            )


def _is_whole(value: Any) -> bool:
    """Whether a tensor has memory of its own for every element, so that it is not larger than the file."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _fits(
    state: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...], classes: Sequence[str], settings: Any
) -> bool:
    """Whether weights are those of a network of this package, found out without memory for the network."""
    if any(isinstance(value, list) and len(value) > len(state) for value in settings.values()):
        return False
    try:
        expected = blueprint(name, shape[2], len(classes), **settings).state_dict()
    except (KeyError, TypeError, ValueError, RuntimeError):
        return False
    return {key: value.shape for key, value in expected.items()} == {key: value.shape for key, value in state.items()}
