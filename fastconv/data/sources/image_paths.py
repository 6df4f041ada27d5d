"""Finds the files that tables name: on other systems, in another case or Unicode form, or without their ending."""

import os
from functools import cache
from pathlib import Path

from fastconv.data.sources.formats import ENDINGS, HEIF_ENDINGS
from fastconv.system.errors import InputError
from fastconv.system.names import nfc


class ImagePaths:
    """Finds files below a folder. Folders are listed once.

    Args:
        root: the folder that names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listing = cache(_listing)
        self._folder = cache(self._find_folder)

    def find(self, name: str) -> Path | None:
        """The file that a name means: as it is, with / for \\, in another case, with its accents composed otherwise, or
        with the ending of an image.

        None if there is no such file. Raises InputError if a name without an ending means several files.
        """
        path = self._root / name
        if os.path.isfile(path):  # False for a text that cannot be a path
            return path
        if not name or "\0" in name:
            return None
        path = self._root / name.replace("\\", "/")
        path = self._folder(path.parent) / path.name
        found = self._listing(path.parent).get(_key(path.name), [])
        for endings in (ENDINGS, HEIF_ENDINGS):  # those that cannot be opened last: decoding them tells why
            if not found and path.name:
                # Without an ending. A dot in the name, as in photo.v2, need not begin one.
                names = (_key(f"{path.name}{ending}") for ending in endings)
                found = [file for each in names for file in self._listing(path.parent).get(each, [])]
        if path.name in found:
            found = [path.name]
        if len(found) > 1:
            raise InputError(f"{name} may be {' or '.join(sorted(found)[:3])} in {path.parent}: give the whole name")
        return path.parent / found[0] if found and os.path.isfile(path.parent / found[0]) else None

    def _find_folder(self, path: Path) -> Path:
        """The folder that a path means, itself or in another spelling; the path if there is none or several."""
        if os.path.isdir(path):
            return path
        folder = Path(path.anchor)
        for name in path.relative_to(folder).parts:
            inside = folder / name
            if not os.path.isdir(inside):
                found = self._listing(folder).get(_key(name), [])
                if len(found) != 1:
                    return path
                inside = folder / found[0]
            folder = inside
        return folder


def _key(name: str) -> str:
    """Equal for the same name in any case and any Unicode form."""
    return nfc(name).lower()


def _listing(folder: Path) -> dict[str, list[str]]:
    """The names in a folder, by their keys."""
    found: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            found.setdefault(_key(name), []).append(name)
    except (OSError, ValueError):
        pass
    return found
