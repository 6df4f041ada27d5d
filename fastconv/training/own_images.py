"""The images of a run that is resumed: those that it began with, even if its data set has changed since."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fastconv.analysis.run_images import same_pixels
from fastconv.config.resume import RunFolder, begun_files
from fastconv.config.schema import Config
from fastconv.data.own_images import own_images
from fastconv.data.split_record import SplitRecord
from fastconv.data.splits import Splits
from fastconv.data.stream.spec import StreamSpec
from fastconv.runs.folder import CHECKPOINT
from fastconv.system.distributed import from_first_rank
from fastconv.system.errors import InputError


def images_to_go_on_with(config: Config, data: Splits, begun: RunFolder | None, console: Console) -> Splits:
    """The images to train on: those of a run that is resumed, else `data`, the data set as it is now.

    Images that are new since the run began are left out, which a line says. Raises InputError if any of its own images
    is gone or has another label, or if the data set cannot be read.
    """
    # Only the first rank has looked for the run to resume.
    found_in = from_first_rank("resumed", lambda: str(begun.path.absolute()) if begun and begun.resumed else None)
    if found_in is None:
        return data
    folder = begun_files(Path(found_in))
    if SplitRecord.read(folder) is None and not (folder / CHECKPOINT).exists():  # it had not begun to train
        return data
    found = own_images(config.dataset, Path(config.data), folder, config.own_folders())
    changes = found.changes
    if changes.relabelled or any(changes.gone.values()):
        raise InputError(
            f"resume={folder} cannot continue, since its images have changed: {changes.sentence()} Put them back, or"
            " start a new run"
        )
    if changes.new:
        console.print(changes.sentence(), highlight=False, markup=False, soft_wrap=True)
    return found.splits


def keep_record(splits: Splits, folder: RunFolder) -> None:
    """Write into a run's folder which images it has in its splits, unless it says so already."""
    record = SplitRecord.of(splits)
    if record is not None and SplitRecord.read(folder.path) is None:
        record.write(folder.path)


def require_same_images(spec: StreamSpec, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise InputError unless the images of a stream are those that a checkpoint's network was trained on."""
    network = checkpoint["network"]
    same = (tuple(network["shape"]), tuple(network["classes"])) == (spec.shape, spec.classes)
    if not same or not same_pixels((spec.mean, spec.std), (network["mean"], network["std"])):
        raise InputError(
            f"{path} was trained on other images than {spec.dataset} has now: put those back, or start a new run"
        )
