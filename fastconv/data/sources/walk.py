"""Walks folders of images, and tells what it passes over: hidden and system files and folders, and files that are no
images."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fastconv.data.sources.formats import ENDINGS, heif_advice
from fastconv.system.errors import InputError
from fastconv.system.files import path_from
from fastconv.system.wording import counted

# Folders and files that systems, archives, network storage and editors leave beside a user's, besides hidden ones
# (which begin with a dot): macOS; Windows; Linux; Synology, QNAP and others; Python.
SYSTEM_FOLDERS = frozenset(
    (
        "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder",
        "$recycle.bin", "recycler", "recycled", "system volume information", "found.000",
        "lost+found",
        "@eadir", "#recycle", "#snapshot", "~snapshot", "@recycle", "@recently-snapshot", "@sharebin", "@tmp",
        "__pycache__",
    )
)  # fmt: skip
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))


def is_hidden(name: str) -> bool:
    """Whether a folder or file of this name is hidden or a system's own, at any depth."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def is_image(name: str) -> bool:
    """Whether a file of this name is an image, by its ending."""
    return name.lower().endswith(ENDINGS)


def is_tar(name: str) -> bool:
    """Whether a file of this name is a tar, by its ending."""
    return name.lower().endswith(TAR_ENDINGS)


class Folder:
    """A folder as it is on disk. It is listed when it is first asked; links are followed.

    Args:
        path: of the folder.
        skip: real paths of folders to leave out wherever they are met.

    Raises InputError, when it is listed, for a folder that cannot be read.
    """

    def __init__(self, path: Path, skip: frozenset[str] = frozenset()) -> None:
        self.path, self.skip = path, skip

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def folders(self) -> list["Folder"]:
        """The folders in it, by name, without hidden ones and those to leave out."""
        return self._listed[0]

    @property
    def images(self) -> list[os.DirEntry[str]]:
        """The images directly in it, by name. A broken link, a pipe or a device counts as one that cannot be read."""
        return self._listed[1]

    @property
    def others(self) -> list[Path]:
        """The files directly in it that are not images, by their endings."""
        return self._listed[2]

    @property
    def hidden(self) -> list[Path]:
        """The hidden images, and the hidden and system folders, directly in it."""
        return self._listed[3]

    @property
    def skipped(self) -> list[Path]:
        """The folders directly in it that are left out because of `skip`."""
        return self._listed[4]

    @cached_property
    def _listed(self) -> tuple[list["Folder"], list[os.DirEntry[str]], list[Path], list[Path], list[Path]]:
        folders: list[Folder] = []
        images: list[os.DirEntry[str]] = []
        others: list[Path] = []
        hidden: list[Path] = []
        skipped: list[Path] = []
        try:
            with os.scandir(self.path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if _is_folder(entry):
                        if is_hidden(entry.name):
                            hidden.append(Path(entry.path))
                        elif self.skip and os.path.realpath(entry.path) in self.skip:
                            skipped.append(Path(entry.path))
                        else:
                            folders.append(Folder(Path(entry.path), self.skip))
                    elif is_hidden(entry.name):
                        if is_image(entry.name):
                            hidden.append(Path(entry.path))
                    elif is_image(entry.name):
                        images.append(entry)
                    elif entry.name.casefold() not in SYSTEM_FILES:
                        others.append(Path(entry.path))
        except OSError as error:
            raise InputError(f"cannot read the folder {self.path}: {error.strerror}. Check its permissions") from error
        return folders, images, others, hidden, skipped

    def walk(self) -> Iterator["Folder"]:
        """Yield this folder and those below it, each once, so that links in a circle end.

        A link to a folder that contains this one is passed over: the images there are not of this folder's class.
        """
        above = map(os.stat, self.path.resolve().parents)
        seen, waiting = {(about.st_dev, about.st_ino) for about in above}, [self]
        while waiting:
            folder = waiting.pop()
            try:
                about = os.stat(folder.path)
            except OSError as error:
                raise InputError(f"cannot read the folder {folder.path}: {error.strerror}") from error
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            yield folder
            waiting += reversed(folder.folders)

    @cached_property
    def all_images(self) -> list[os.DirEntry[str]]:
        """The images in it, at any depth."""
        return [entry for folder in self.walk() for entry in folder.images]

    @property
    def described(self) -> str:
        """Its path and the number of all its images, in words."""
        return f"{self.path} has {counted(len(self.all_images), 'image')}"

    @cached_property
    def has_images(self) -> bool:
        """Whether there is an image in it, at any depth."""
        return any(folder.images for folder in self.walk())

    @cached_property
    def needs_heif(self) -> str:
        """What `needs_heif` says of the files in it, at any depth."""
        return needs_heif(path for folder in self.walk() for path in folder.others)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself, broken as others are
            return False
        raise


@dataclass
class PassedOver:
    """What is not an image, hidden or fastconv's own among the images that a command was given.

    `output` is the file that the command writes, maybe among the images; it is not reported.
    """

    output: Path
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    own: list[Path] = field(default_factory=list)

    def add(self, folder: Folder) -> None:
        """Note what is directly in a folder."""
        for path in folder.others:
            self.add_other(path)
        self.hidden += folder.hidden
        self.own += folder.skipped

    def add_other(self, path: Path) -> None:
        """Note a file that is not an image, by its ending."""
        if not path.name.startswith(self.output.name) or path.parent.absolute() != self.output.parent:
            self.others.append(path)

    def lines(self) -> list[str]:
        """Sentences about it, without a full stop."""
        lines = [f"{path} is passed over: fastconv writes there" for path in dict.fromkeys(self.own)]
        lines += [describe_hidden(self.hidden, Path()), describe_others(self.others, Path())]
        return [line for line in lines if line]


def describe_others(others: Iterable[Path], root: Path) -> str:
    """A sentence about files that are not images, by their endings; empty if there are none."""
    others = list(others)
    if not others:
        return ""
    kinds = Counter(path.suffix.lower() or "no ending" for path in others)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4)) + ", ..." * (len(kinds) > 4)
    files = counted(len(others), "file has no extension of an image", "files have no extension of an image")
    line = f"{files} ({counts}), such as {path_from(others[0], root)}"
    return f"{line}{needs_heif(others)}"


def needs_heif(paths: Iterable[Path]) -> str:
    """What to add to a sentence about missing images if pillow-heif would read some of these files."""
    advice = heif_advice(path.name for path in paths)
    return f". {advice}" if advice else ""


def describe_hidden(hidden: Iterable[Path], root: Path) -> str:
    """A sentence about the images that are hidden or in hidden and system folders; empty if there are none."""
    images: list[str] = []
    for path in hidden:
        if not path.is_dir():
            images.append(str(path))
            continue
        for here, _, names in os.walk(path):
            images += [os.path.join(here, name) for name in names if is_image(name)]
    if not images:
        return ""
    one, many = (f"hidden {each}, or {each} in folders of the system," for each in ("image", "images"))
    passed = counted(len(images), f"{one} is", f"{many} are")
    return f"{passed} passed over, such as {path_from(images[0], root)}"
