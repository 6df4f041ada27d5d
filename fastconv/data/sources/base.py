"""What a source of own images is, and what the sources have in common."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastconv.data.sources.decode import Sample

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


@dataclass(frozen=True)
class Found:
    """What a source has. Without test samples, the training ones are to be split."""

    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample] | None


@dataclass(frozen=True)
class Source:
    """Images somewhere. `stamp` changes with them, and costs little; `find` finds them."""

    stamp: list
    find: Callable[[], Found]


def natural(name: str) -> tuple:
    """Numbers in the order of numbers, before words."""
    return (0, int(name), "") if re.fullmatch(r"[0-9]{1,18}", name) else (1, 0, name)


def stamp(path: Path, root: Path) -> list:
    """What changes with a file, but for its content: its place below `root`, size and time."""
    try:
        about = path.stat()
    except OSError:  # a link to nowhere: it is among the unreadable
        return [str(path), 0, 0]
    return [os.path.relpath(path, root), about.st_size, about.st_mtime_ns]
