"""Files that a setting names by a path or by a pattern with *, ? or [...], as a shell would find them."""

import glob
import os
from collections.abc import Iterator
from functools import cache
from itertools import dropwhile
from pathlib import Path

from fastconv.data.sources.walk import Folder, PassedOver, is_hidden, is_image, is_tar, needs_heif
from fastconv.system.errors import InputError


def matching(text: str, key: str, skip: frozenset[str] = frozenset(), passed: PassedOver | None = None) -> list[str]:
    """The paths that a text names: itself if it is there, else what it matches as a pattern, by name.

    `**` stands for folders at any depth; it then names files only. Links are followed, but not to a folder that
    contains them, and what a pattern finds on several ways is named once. Hidden and system files and folders that a
    pattern runs into are left out, and so are, if `passed` is given, files that it names without their ending, as
    photos/* does, and that are no images or tars by their endings.

    Args:
        key: the setting, for messages.
        skip: real paths of folders that a pattern does not lead into.
        passed: notes what is left out.

    Raises InputError if there is no such file or folder.
    """
    if os.path.lexists(text):
        return [text]
    if not glob.has_magic(text):
        raise InputError(f"{key}={text} is not there")
    parts = Path(text).parts
    plain = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    # Folders that have brackets in their names, such as "trip [1]", are those that are there.
    there = next((at for at in range(len(parts) - 1, plain, -1) if os.path.lexists(Path(*parts[:at]))), plain)
    base = Path(*parts[:there])
    pattern = os.path.join(glob.escape(str(base)), *parts[there:]) if there > plain else text
    any_ending = glob.has_magic(Path(text).suffix or "*")
    ours: set[Path] = set()
    seen: set[str] = set()
    real, leads_back = cache(os.path.realpath), cache(_leads_back)
    found = []
    for match in sorted(_matches(pattern)):
        path = Path(match)
        below = path.relative_to(base)
        if any(map(is_hidden, below.parts)) or ("**" in text and path.is_dir()):
            continue
        folders = (path, *list(path.parents)[: len(below.parts) - 1])
        inside = {folder for folder in folders if _is_one_of(folder, skip)}
        ours |= inside
        if inside or any(map(leads_back, folders)):
            continue
        place = os.path.realpath(path) if path.is_dir() else os.path.join(real(path.parent), path.name)
        if place in seen:
            continue
        seen.add(place)
        if passed is not None and any_ending and not is_image(path.name) and not is_tar(path.name) and path.is_file():
            passed.add_other(path)
            continue
        found.append(match)
    if passed is not None:
        passed.own += sorted(ours)
    if not found:
        beside = f" outside of {min(ours)}" if ours else ""
        raise InputError(f"{key}={text} matches no file{beside}{needs_heif(passed.others) if passed else ''}")
    return found


def _matches(text: str) -> Iterator[str]:
    """Yield what a pattern matches. `**` goes into each folder once: through links in a circle there is no end."""
    parts = Path(text).parts
    if "**" not in parts:
        yield from glob.iglob(text)
        return
    at = parts.index("**")
    rest = list(dropwhile(lambda part: part == "**", parts[at:])) or ["*"]
    for start in filter(os.path.isdir, glob.iglob(str(Path(*parts[:at])))):
        for folder in Folder(Path(start)).walk():
            yield from map(str, map(Path, _matches(os.path.join(glob.escape(str(folder.path)), *rest))))


def _leads_back(path: Path) -> bool:
    """Whether a path is a link to a folder that contains it."""
    return path.is_symlink() and Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(path))


def _is_one_of(path: Path, folders: frozenset[str]) -> bool:
    return bool(folders) and path.is_dir() and os.path.realpath(path) in folders
