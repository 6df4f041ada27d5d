"""Settings of the data: the images, and the source of the training stream."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastconv.system.settings import BATCH, CHANCE, MISSING, PIXELS, SEED, SHARE, Range, setting

# The modes of a stream that are no files.
UNSTORED = ("online", "device")
# Ways in which images become square (`sources.pixels.to_array`).
RESIZES = ("crop", "pad", "squash")
# The settings that say where the images of a source are.
PLACES: dict[str, tuple[str, ...]] = {
    "image_folder": ("root",),
    "csv": ("train", "test", "root"),
    "webdataset": ("train", "test"),
    "parquet": ("train", "test"),
    "arrays": ("root",),
}


@dataclass
class Dataset:
    """The data set, and properties of its images that hold for every run."""

    name: str = MISSING
    """Name of the data set: digits, mnist, fashion_mnist or cifar10; the class of one of torchvision's data sets; or
    any name for your own images."""
    source: str = setting(
        "builtin", options=("builtin", "image_folder", "csv", "webdataset", "parquet", "torchvision", "arrays")
    )
    """Kind of source: image_folder, csv, webdataset, parquet, torchvision or arrays for your own images; `builtin` for
    the data sets that fastconv knows by name."""
    _target_: str | None = None
    """A function of your own to use instead of `source`, such as mypkg.photos. It returns (train images uint8 [N, H, W,
    C], train labels, test images, test labels, class names), or a Source (fastconv.data.sources.base)."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of that function, such as dataset.arguments.count=100."""
    root: str | None = setting(None, path=True, local=True)
    """For image_folder: a folder that contains one folder for each class, or folders train and test (or val) of such
    folders. For csv: the folder of the image files; null for the folder of the table. For arrays: the .npz file."""
    train: Any = setting(None, path=True)
    """For webdataset: the tars to train on, one path or URL or a list, with {000..010} or * for ranges. For csv: the
    table of training images. For parquet: the files to train on, in the same ways."""
    test: Any = setting(None, path=True)
    """The same for the test images; null to test on a share of the training images (`test_share`)."""
    image_column: str | None = None
    """For csv and parquet: the column of images; null to find it by its name or its type."""
    label_column: str | None = None
    """For csv and parquet: the column of labels; null to find it by its name or its type."""
    image_size: int | None = setting(
        None, Range("a number of pixels", 8, 1024, note=", or null for that of the images")
    )
    """Side in pixels to scale your own images to; null for the median of their shorter sides, from 24 to 128."""
    resize: str = setting("crop", options=(*RESIZES, "auto"))
    """How your own images become square: `crop` keeps the square in the middle, `pad` keeps the whole image on a square
    of its mean colour, `squash` keeps the whole image but not its aspect ratio. `auto` pads if more than a tenth of the
    training images (without a test split: of all images) would lose more than a quarter to a crop, else it crops."""
    test_share: float = setting(0.2, Range("a share", 0, 1, closed="neither"))
    """Share of each class of your own images to test on, if they have no test split."""
    split_seed: int = setting(0, SEED)
    """Seed for the choice of these test images, which depends on their content."""
    strict: bool = False
    """Stop if any image cannot be read, instead of leaving it out."""
    holdout: float = setting(0.0, SHARE)
    """Share of the training images, in [0, 1), to hold out for tuning, the same for every class."""
    holdout_seed: int = setting(0, SEED)
    """Seed for the choice of held-out images."""
    flip: float = setting(0.5, CHANCE)
    """Probability of a horizontal flip in all options of `augment` that flip; 0 if a flip changes the class."""
    crop_padding: int = setting(4, PIXELS)
    """Pixels of padding on each side in `augment=crop` and `standard`."""
    cutout_size: int = setting(8, PIXELS)
    """Side in pixels of the covered square in `augment=cutout` and `standard`."""
    batch_size: int = setting(512, BATCH)
    """Default batch size for this data set, in images per optimizer step."""

    @property
    def is_builtin(self) -> bool:
        """Whether it is one that fastconv knows by name, whose images never change."""
        return self._target_ is None and self.source == "builtin"

    @property
    def places(self) -> tuple[str, ...]:
        """The settings that say where its images are."""
        return PLACES.get(self.source, ()) if self._target_ is None else ()


@dataclass
class Stream:
    """The source of the augmented training images."""

    mode: str = setting("precomputed", options=("precomputed", "online", "device", "auto"))
    """`precomputed` reads tar shards from disk; `online` augments the images during training; `device` augments them on
    the device that trains, which holds all images. The bytes are the same. `auto` is `device` on a GPU with room for
    the images, else `precomputed`."""
    root: str = setting(MISSING, path=True)
    """Folder of the precomputed streams, or a URL (http, s3 or another protocol of fsspec). Precompute writes to it
    too, except over http."""
    cache: str = setting(MISSING, path=True, local=True)
    """Folder that keeps the shards of a stream whose root is a URL, also for later runs."""
    seed: int = setting(MISSING, SEED)
    """Seed for the order and the augmentation of the images."""
    epochs: int | None = setting(
        None, Range("a number of epochs", 1, 1e6, note=", or null for as many as the run needs")
    )
    """Epochs to precompute; null for the number that the plan expects. Without a time limit, at least the expected
    number is precomputed."""
    max_gb: float = setting(50.0, Range("a number of gigabytes", 0, 1e9))
    """Gigabytes that all streams together may take on disk; the least recently used ones are removed first."""
    verify: bool = True
    """Check each shard against its sha256 when it is first read. Sizes, and shards from a URL, are always checked."""

    @property
    def max_bytes(self) -> float:
        """`max_gb` in bytes."""
        return self.max_gb * 1e9

    @property
    def is_stored(self) -> bool:
        """Whether the stream is written to a folder, or read from a server."""
        return self.mode not in UNSTORED

    @property
    def is_remote(self) -> bool:
        """Whether the streams are read from a server."""
        return "://" in self.root

    @property
    def folder(self) -> Path:
        """The folder of the shards on this machine."""
        return Path(self.cache if self.is_remote else self.root)
