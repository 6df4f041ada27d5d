"""The built-in data sets: scikit-learn's digits, torchvision's MNIST, Fashion-MNIST and CIFAR-10.

Each function returns the arrays of the official splits, and reads official files only.
"""

import hashlib
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastconv.data.dataset import ImageData
from fastconv.data.sources.base import Arrays, builtin
from fastconv.data.splits import stratified_split
from fastconv.system.downloads import limited_waiting
from fastconv.system.errors import InputError
from fastconv.system.files import try_lock

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10, MNIST

# Held in the folder of a download as long as that goes on.
LOCK = ".lock"


@builtin("digits")
def digits(root: Path) -> Arrays:
    """scikit-learn's 1,797 bundled 8x8 digits; a fixed, stratified fifth of them is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    classes = tuple(str(digit) for digit in range(10))
    train, test = stratified_split(ImageData("digits", images, labels, classes, ""), 0.2, seed=0)
    return images[train], labels[train], images[test], labels[test], classes


@builtin("mnist")
def mnist(root: Path) -> Arrays:
    """MNIST (LeCun, Cortes & Burges 1998)."""
    from torchvision.datasets import MNIST

    return _idx(root, MNIST)


@builtin("fashion_mnist")
def fashion_mnist(root: Path) -> Arrays:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747)."""
    from torchvision.datasets import FashionMNIST

    return _idx(root, FashionMNIST)


@builtin("cifar10")
def cifar10(root: Path) -> Arrays:
    """CIFAR-10 (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR10

    expected = {CIFAR10.meta["filename"]: CIFAR10.meta["md5"], **dict(CIFAR10.train_list + CIFAR10.test_list)}
    _fetch_missing(root, CIFAR10, [Path(CIFAR10.base_folder, name) for name in expected])
    for name, md5 in expected.items():
        # These files are pickles: never load one that is not the official.
        _require_official(root / CIFAR10.base_folder / name, "md5", md5)
    train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
    return train.data, np.array(train.targets), test.data, np.array(test.targets), tuple(train.classes)


# sha256 of the official idx files, unpacked: torchvision knows only those of the compressed files.
IDX_SHA256 = {
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "FashionMNIST/raw/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "MNIST/raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "MNIST/raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "MNIST/raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "MNIST/raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}


def _idx(root: Path, dataset: "type[MNIST]") -> Arrays:
    """Read a data set in MNIST's file format, and check it against the official files."""
    folder = Path(dataset.__name__, "raw")
    expected = {Path(name): digest for name, digest in IDX_SHA256.items() if Path(name).parent == folder}
    _fetch_missing(root, dataset, list(expected))
    for name, digest in expected.items():
        _require_official(root / name, "sha256", digest)
    train, test = dataset(root, train=True), dataset(root, train=False)
    arrays = (train.data.numpy()[..., None], train.targets.numpy(), test.data.numpy()[..., None], test.targets.numpy())
    return *arrays, tuple(name.split(" - ")[0] for name in train.classes)


def _require_official(path: Path, algorithm: str, digest: str) -> None:
    """Raise InputError for a file that cannot be read or has another digest than the official one."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check its permissions") from error
    if found != digest:
        raise InputError(f"{path} is damaged: its checksum is not the official file's. Delete it to download it again")


def _fetch_missing(root: Path, dataset: "type[MNIST | CIFAR10]", files: list[Path]) -> None:
    """Download a torchvision data set to a temporary folder and move it into place when it is complete."""
    missing = [file for file in files if not (root / file).exists()]
    if not missing:
        return
    lock = None
    before = f".download-{dataset.__name__}-"
    aside = root / f"{before}{secrets.token_hex(6)}"  # not the process's number, which another container may have too
    try:
        for leftover in root.glob(f"{before}*"):
            _remove_unless_in_use(leftover)
        lock = try_lock(aside / LOCK)
        with limited_waiting():
            dataset(aside, download=True)
        for file in missing:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (aside / file).replace(root / file)
    except (OSError, RuntimeError, InputError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(
            f"{root / missing[0]} is missing and {dataset.__name__} could not be downloaded ({reason})."
            " Put the official files there, or set FASTCONV_DATA to the folder that has them"
        ) from error
    finally:
        if lock is not None:
            lock.release()  # first, as Windows removes no file that is open
        shutil.rmtree(aside, ignore_errors=True)


def _remove_unless_in_use(leftover: Path) -> None:
    """Remove the folder of a download that was killed."""
    with suppress(InputError):  # it is somebody else's
        if lock := try_lock(leftover / LOCK):
            lock.release()
            shutil.rmtree(leftover, ignore_errors=True)
