"""Export of trained networks to files that work without fastconv."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.analysis.run_images import images_of
from fastconv.analysis.scoring import batches
from fastconv.config.commands import Export, as_list
from fastconv.config.places import missing_place
from fastconv.data.dataset import images_at_once
from fastconv.models.classifier import Classifier
from fastconv.system.errors import InputError
from fastconv.system.files import replacing, write_atomically
from fastconv.system.names import printable
from fastconv.system.signals import raise_received
from fastconv.system.wording import counted

# Largest difference of a file's probabilities from the checkpoint's, both in float32.
TOLERANCE = 1e-4
FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
# What files say of the images that they take, under this name.
ABOUT = "preprocessing"
# How an image gets this width and height, by `dataset.resize`. All scale it by antialiased bicubic interpolation.
RESIZED = {
    "crop": "scaled until it just covers {width}x{height} pixels and cropped to its centre",
    "pad": "scaled until it just fits into {width}x{height} pixels and centred on its own mean colour",
    "squash": "scaled to {width}x{height} pixels without keeping its aspect ratio",
}


class Probabilities(nn.Module):
    """Maps raw images uint8 [N, H, W, C] to probabilities float32 [N, classes].

    Args:
        classifier: gives logits.
        temperature: what the logits are divided by.
        preprocessing: how images become such arrays, in words.
    """

    def __init__(self, classifier: Classifier, temperature: float = 1.0, preprocessing: str = "") -> None:
        super().__init__()
        self.classifier, self.temperature, self.preprocessing = classifier, temperature, preprocessing

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images.float())
        return (logits / self.temperature).softmax(1)


def export(config: Export) -> list[str]:
    """Write a run's network into its folder in some formats, beside a list of its classes.

    Returns lines to print. Raises InputError for a run that cannot be read, for a format whose packages are missing or
    that cannot hold the network, and for a file whose predictions differ from the checkpoint's, which is removed.
    """
    folder = Path(config.run)
    run = load_run(folder, config.trust).with_images(config.dataset)
    images, what, warnings = _to_compare(run, config)
    two = torch.from_numpy(images[[0, -1]])  # a single one twice: torch would take 1 for the only number
    classifier = Classifier(run.model, run.mean, run.std)
    network = Probabilities(classifier, run.temperature or 1.0, preprocessing(run)).eval().requires_grad_(False)
    with torch.inference_mode():
        expected = _in_parts(lambda given: network(torch.from_numpy(given)).numpy(), images)
    lines = []
    for kind in as_list(config.format):
        path = folder / FILES[kind]
        with replacing(path, f".part{path.suffix}") as partial:  # torch warns of any other ending
            predict = _written(kind, network, two, partial)
            error = float(np.abs(_in_parts(predict, images) - expected).max())
            if not error <= TOLERANCE:
                raise InputError(
                    f"{path} would give other probabilities than the checkpoint, by up to {error:.2g}: not written"
                )
        lines.append(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB; probabilities differ by at most {error:.1g}"
            f" on {counted(len(images), what)}"
        )
    classes = folder / "classes.txt"
    write_atomically(classes, "".join(f"{printable(name)}\n" for name in run.classes).encode())
    return [
        *lines,
        f"{classes}: the classes in the order of the probabilities",
        f"images: {network.preprocessing}",
        *warnings,
    ]


def _in_parts(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """The predictions of images uint8 [N, H, W, C], as many at once as fit into memory."""
    slices = batches(len(images), images_at_once(images.shape[1:]))
    return np.concatenate([predict(images[part]) for part in slices])


def preprocessing(run: TrainedRun) -> str:
    """Say how images become what an exported network takes (`sources.pixels.to_array`)."""
    height, width, channels = run.shape
    deep = ""
    if run.levels:
        deep = f"integers of more than 8 bits {_scaled(run.levels.integers)}, floats {_scaled(run.levels.floats)}, "
    how = RESIZED[run.resize].format(width=width, height=height)
    return (
        f"uint8 [N, {height}, {width}, {channels}], 0 to 255, {'grey' if channels == 1 else 'RGB'}; each image {how}"
        f" (antialiased bicubic, dataset.resize={run.resize}). Before that: turned upright as its EXIF data says,"
        f" {deep}transparent parts on white"
    )


def _scaled(factor: float) -> str:
    return "as they are" if factor == 1 else f"divided by {1 / factor:g}" if factor < 1 else f"times {factor:g}"


def _to_compare(run: TrainedRun, config: Export) -> tuple[np.ndarray, str, list[str]]:
    """Images uint8 [N, H, W, C] to compare files on, what they are, and lines about them.

    They are test images, or noise where the run's data set is not here: a network can be exported anywhere.
    """
    try:
        missing = missing_place(run.config.dataset)
        if missing is not None:
            raise InputError(f"there is no {missing}")
        splits, warnings = images_of(run, run.data_folder(config.data))
    except InputError as error:
        named = any(value is not None for value in asdict(config.dataset).values())
        if named or not (missing is not None or run.config.dataset.is_builtin):
            raise
        noise = np.random.default_rng(0).integers(0, 256, (config.samples, *run.shape), np.uint8)
        return (
            noise,
            "noise image",
            [f"The test images are not here, so noise was used to compare: {error}"],
        )
    test, count = splits.test, min(config.samples, len(splits.test))
    return (
        np.array(test.images[np.linspace(0, len(test) - 1, count).astype(int)]),
        "test image",
        warnings,
    )


def _written(kind: str, network: Probabilities, images: Tensor, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Write a file of a format, and return what predicts with it. Raises InputError for a network that it cannot hold:
    a user's own may compute anything."""
    try:
        return WRITERS[kind](network, images, path)
    except (InputError, OSError):
        raise
    except Exception as error:  # torch and onnxscript have many
        raise_received()
        name = type(network.classifier.model).__name__
        why = (str(error).strip() or type(error).__name__).splitlines()[0].strip(" .")[:200]
        raise InputError(
            f"{name} cannot be written with format={kind}: {why}. Its forward must do the same whatever the images"
            " hold and however many they are (see torch.export), or choose another format"
        ) from error


def _write_torch(network: Probabilities, images: Tensor, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    content = io.BytesIO()  # torch's own writer to a file does not say why it fails
    with _quiet():
        torch.export.save(_exported(network, images), content, extra_files={ABOUT: network.preprocessing})
        path.write_bytes(content.getbuffer())
        loaded = torch.export.load(path).module()
    return lambda given: loaded(torch.from_numpy(given)).numpy()


def _write_onnx(network: Probabilities, images: Tensor, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch writes with it
    except ImportError as error:
        raise InputError(
            f"format=onnx needs the package {error.name}: pip install 'fastconv[export]', or use format=torch"
        ) from error
    with _quiet():
        program = torch.onnx.export(_exported(network, images), (images,), dynamo=True)
        assert program is not None
        program.model.metadata_props[ABOUT] = network.preprocessing
        program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


WRITERS = {"onnx": _write_onnx, "torch": _write_torch}


def _exported(network: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    count = torch.export.Dim("images", min=1)
    return torch.export.export(network, (images,), dynamic_shapes=({0: count},))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' logs, warnings and output."""
    for name in ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    aside = io.StringIO()  # torch prints the graph of a network that it cannot export
    with warnings.catch_warnings(), contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside):
        warnings.simplefilter("ignore")
        yield
