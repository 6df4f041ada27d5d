"""Settings of data: which images, and where the training stream comes from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from fastconv.system.settings import BATCH, CHANCE, PIXELS, SEED, SHARE, Range, setting


@dataclass
class Dataset:
    """Which images, and what is true of them whatever the recipe."""

    name: str = MISSING
    """digits, mnist, fashion_mnist or cifar10; a class of torchvision's data sets; or what you call your own."""
    source: str = setting("builtin", options=("builtin", "image_folder", "csv", "webdataset", "torchvision", "arrays"))
    """Where own images come from: image_folder, csv, webdataset, torchvision or arrays; `builtin` for none of them."""
    _target_: str | None = None
    """A function of your own instead, such as mypkg.photos. It returns (train images uint8 [N, H, W, C], train labels,
    test images, test labels, class names), or a Source (fastconv.data.sources.base)."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of that function: dataset.arguments.count=100."""
    root: str | None = None
    """image_folder: the folder that has a folder for each class, or folders train and test (or val) that have; csv: the
    folder of the files (null for the table's own); arrays: the .npz."""
    train: Any = None
    """webdataset: tars to train on, paths or URLs, one or a list, with {000..010} or * for ranges; csv: the table."""
    test: Any = None
    """The same, to test with; null for a part of those to train on."""
    image_size: int | None = setting(
        None, Range("a number of pixels", 8, 1024, note=", or null for that of the images")
    )
    """Side in pixels that own images are scaled to; null for that of the middle one of them, from 24 to 128."""
    test_share: float = setting(0.2, Range("a share", 0, 1, closed="neither"))
    """Share of own images, the same of every class, to test with, if they come without a test split."""
    split_seed: int = setting(0, SEED)
    """Seed of the choice of these images."""
    strict: bool = False
    """Stop if some images cannot be read, instead of going on without them."""
    holdout: float = setting(0.0, SHARE)
    """Share of the training images, in [0, 1), held out (the same of every class) for tuning."""
    holdout_seed: int = setting(0, SEED)
    """Seed of the choice of held-out images."""
    flip: float = setting(0.5, CHANCE)
    """Chance of a mirrored image in `augment=flip`, `standard` and `airbench`; 0 where mirroring changes the class."""
    crop_padding: int = setting(4, PIXELS)
    """Pixels of padding on each side in `augment=crop` and `standard`."""
    cutout_size: int = setting(8, PIXELS)
    """Side in pixels of the covered square in `augment=cutout` and `standard`."""
    batch_size: int = setting(512, BATCH)
    """Images per optimizer step that suit the size of the data set."""


@dataclass
class Stream:
    """Where the augmented training images come from."""

    mode: str = setting("precomputed", options=("precomputed", "online"))
    """`precomputed`: from tar shards on disk; `online`: computed while training. The same bytes either way."""
    root: str = MISSING
    """Folder of the precomputed streams, or a URL (http, s3 or another protocol of fsspec) to read them from."""
    cache: str = MISSING
    """Folder in which the shards from a URL are kept, for later runs too."""
    seed: int = setting(MISSING, SEED)
    """Seed of the order and the augmentation of the images."""
    epochs: int | None = setting(
        None, Range("a number of epochs", 1, 1e6, note=", or null for as many as the run needs")
    )
    """Epochs to precompute; null for as many as the plan expects to need. Without a time limit at least those."""
    max_gb: float = setting(50.0, Range("a number of gigabytes", 0, 1e9))
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
