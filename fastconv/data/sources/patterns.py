"""Files that a setting names by a path or by a pattern with *, ? or [...], as a shell would find them."""

import glob
import os
from pathlib import Path

from fastconv.data.sources.walk import PassedOver, is_hidden, is_image, is_tar, needs_heif
from fastconv.system.errors import InputError


def matching(text: str, key: str, skip: frozenset[str] = frozenset(), passed: PassedOver | None = None) -> list[str]:
    """The paths that a text names: itself if it is there, else what it matches as a pattern, by name.

    `**` stands for folders at any depth; it then names files only, so that none is named twice. Hidden and system files
    and folders that a pattern runs into are left out, and so are, if `passed` is given, files that it names without
    their ending, as photos/* does, and that are no images or tars by their endings.

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
    base = Path(*parts[: next(at for at, part in enumerate(parts) if glob.has_magic(part))])
    any_ending = glob.has_magic(Path(text).suffix or "*")
    ours: set[Path] = set()
    found = []
    for match in sorted(glob.glob(text, recursive=True)):
        path = Path(match)
        below = path.relative_to(base)
        if any(map(is_hidden, below.parts)) or ("**" in text and path.is_dir()):
            continue
        inside = {folder for folder in (path, *list(path.parents)[: len(below.parts) - 1]) if _is_one_of(folder, skip)}
        ours |= inside
        if inside:
            continue
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


def _is_one_of(path: Path, folders: frozenset[str]) -> bool:
    return bool(folders) and path.is_dir() and os.path.realpath(path) in folders
