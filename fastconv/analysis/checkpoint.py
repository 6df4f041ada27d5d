"""A trained run, read back from its folder: its network, its configuration and its results."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from fastconv.analysis.checkpoint_checks import (
    fits,
    require_numbers,
    require_own,
    require_possible,
    require_same_shape,
)
from fastconv.config.commands import GivenImages
from fastconv.config.schema import Config
from fastconv.config.store import stored
from fastconv.config.trust import check_stored, require_local
from fastconv.data.configs import RESIZES
from fastconv.data.dataset import ImageData
from fastconv.data.sources.levels import Levels
from fastconv.models import build_model
from fastconv.models.temperature import TEMPERATURE
from fastconv.models.weights import load_weights_by_name
from fastconv.models.whitening import Whitening
from fastconv.runs.checkpoint import load_checkpoint
from fastconv.runs.folder import CHECKPOINT
from fastconv.runs.results import Results
from fastconv.system.errors import InputError, message_of
from fastconv.system.signals import raise_received
from fastconv.system.targets import KEY, require_trust


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
    config = _read_config(folder)
    require_trust(asdict(config), folder / "config.yaml", trust)
    path = folder / CHECKPOINT
    if not path.exists():
        raise InputError(
            f"{folder} has no {CHECKPOINT}: the run has saved no checkpoint. Train it with"
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
        require_possible(shape, classes, mean, std, state, temperature)
        if resize not in RESIZES:
            raise ValueError
        require_numbers(mean, std, state, may_be_infinite=KEY in settings)
        is_same = name == config.model.name and all(
            getattr(config.model, key, None) == value for key, value in settings.items()
        )
    except Exception as error:  # a file may hold anything
        raise_received()
        why = f" ({message_of(error)})" if isinstance(error, InputError) else ""
        raise InputError(f"{path} is damaged or not fastconv's, and cannot be read{why}: choose another run") from error
    other = f"{path} is of another network than the config.yaml beside it: put the run's own checkpoint there"
    if not is_same or not (KEY in settings or fits(state, name, shape, classes, settings)):
        raise InputError(other)
    require_same_shape(path, shape, config)
    model = build_model(name, shape[2], len(classes), **settings)
    try:
        load_weights_by_name(model, state)
    except RuntimeError as error:
        raise InputError(other) from error
    try:
        results = Results.read(folder)
    except (OSError, ValueError):
        results = None
    require_own(path, checkpoint, results)
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


def _read_config(folder: Path) -> Any:
    """The config of a run's folder. Raises InputError if it has none that can be read."""
    try:
        config: Any = OmegaConf.to_object(stored(folder))
        check_stored(config)
        return config
    except Exception as error:  # whatever is wrong with the file, it is not a run's
        raise_received()  # OmegaConf may have made another error of a signal
        why = "" if isinstance(error, FileNotFoundError) else f" ({message_of(error, 200)})"
        raise InputError(
            f"{folder} is not the folder of a run: it has no readable config.yaml{why}. Give one such as"
            " outputs/digits/2026-11-25_09-00-00-a1b2c3"
        ) from error
