"""The interface of a source of images, and the registry of sources."""

import importlib
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastconv.data.sources.decode import Sample
from fastconv.system.files import path_from
from fastconv.system.names import valid_unicode

if TYPE_CHECKING:
    from fastconv.data.configs import Dataset

# Train images uint8 [N, H, W, C], train labels [N], test images, test labels, class names.
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]


@dataclass(frozen=True)
class Found:
    """The samples of a source. If there are no test samples, the training samples are to be split.

    `unreadable` are (name, reason) of images that are left out before they are read, such as those without a label;
    `notes` are sentences, without a full stop, about what is passed over (see `Source`).
    """

    classes: tuple[str, ...]
    train: Sequence[Sample]
    test: Sequence[Sample] | None
    unreadable: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        splits: Sequence[Sequence[Sample]],
        unreadable: Sequence[tuple[str, str]] = (),
        notes: Sequence[str] = (),
    ) -> "Found":
        """Make it from a training split, and a test split if there is one."""
        test = splits[1] if len(splits) > 1 else None
        return cls(tuple(map(valid_unicode, classes)), splits[0], test, unreadable, notes)


@dataclass(frozen=True)
class Source:
    """A source of images: `find` returns them. `stamp`, which JSON can hold, changes when they do and costs little.

    `notes` are sentences about how the source is understood and what is passed over; `problems` are sentences about
    what keeps its images from being trained on. `audit_note` returns another one, for the audit: it may take longer.
    """

    stamp: list[Any]
    find: Callable[[], Found]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    audit_note: Callable[[], str] = str


Opener = Callable[["Dataset", Path], Source]
AnyOpener = TypeVar("AnyOpener", bound=Opener)
Reader = Callable[[Path], Arrays]
_SOURCES: dict[str, Opener] = {}
_BUILTIN: dict[str, Reader] = {}


def source(name: str) -> Callable[[AnyOpener], AnyOpener]:
    """Register a function of (dataset's config, data folder) as `dataset.source=NAME`."""

    def register(function: AnyOpener) -> AnyOpener:
        _SOURCES[name] = function
        return function

    return register


def builtin(name: str) -> Callable[[Reader], Reader]:
    """Register a function as `dataset=NAME`. It reads a data set from the data folder, or downloads it there."""

    def register(function: Reader) -> Reader:
        _BUILTIN[name] = function
        return function

    return register


def sources() -> dict[str, Opener]:
    """The sources of a user's own images, by name."""
    _import_all()
    return _SOURCES


def builtin_sets() -> dict[str, Reader]:
    """The built-in data sets, by name."""
    _import_all()
    return _BUILTIN


@cache
def _import_all() -> None:
    """Import every file of this package, so that all sources are registered."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{package}.{module.name}")


def natural(name: str) -> tuple[int, int, str]:
    """Sort key: numbers in numeric order, before words. No two names have the same."""
    return (0, int(name), name) if re.fullmatch(r"[0-9]{1,18}", name) else (1, 0, name)


def stamp(path: Path, root: Path) -> list[str | int]:
    """Path below `root`, and version of a file, which change when the file does."""
    try:
        about = path.stat()
    except OSError:  # a broken link, which counts as unreadable
        return [str(path), 0, 0]
    return [path_from(path, root), *version_of(about)]


def version_of(about: os.stat_result) -> list[int]:
    """The properties that tell a file from other files, and from its earlier content.

    Size and time of modification do not: archives give all files one time, and uncompressed images of one shape have
    one size, so that two folders of classes that change their names would look as before. So there is the number of the
    file too (0 on systems whose listings have none), which moves with it, and the time of its last change, which
    programs cannot set. The number of the device is left out: it changes when disks are mounted anew, and differs
    between the machines that share one.
    """
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
