"""Which columns of a table are the images, the labels and the split, by the names that people give them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from fastconv.data.sources.formats import ENDINGS
from fastconv.data.sources.layout import WORDS
from fastconv.system.errors import InputError

# Names without case, spaces and signs. If a table has several, the first of them here counts.
IMAGES = ("path", "file", "filename", "image", "filepath", "imagepath", "imagefile", "imagefilename", "imagename",
          "img", "imgpath", "imgname", "imgfile", "imageid", "imgid", "idcode", "isicid", "imageindex", "photo",
          "picture", "paths", "files", "filenames", "filepaths", "images", "imagepaths", "pixels", "id")  # fmt: skip
LABELS = ("label", "class", "target", "category", "labels", "classname", "classlabel", "labelname", "categoryname",
          "classid", "labelid", "categoryid", "targetname", "targetid", "targets", "classes", "diagnosis", "dx",
          "breed", "species", "emotion", "grade", "level", "variety", "digit", "findinglabels", "y")  # fmt: skip
SPLITS = ("split", "usage", "subset", "dataset", "set", "partition", "phase", "fold", "istest", "isvalid", "isval",
          "istrain", "istrainingimage")  # fmt: skip
# Columns whose cells may hold several labels with | between them.
MULTI_LABEL = ("findinglabels",)
# An index that pandas wrote without a name.
INDEX = re.compile(r"|unnamed:? ?[0-9]+|index|#")
_PIXEL = re.compile(r"(?:pixel|px)_?[0-9]+|[0-9]+x[0-9]+")
# Columns of numbers from which on a table without a header is one of pixels.
_MANY = 64


@dataclass(frozen=True)
class Columns:
    """Positions of the columns. An image is in `image`, as a path or as pixels in one text, or its `pixels` are in a
    column each; its label is in `label`, or the one of `one_hot` that is 1. `unused` are names of other columns."""

    head: tuple[str, ...]
    image: int | None = None
    pixels: tuple[int, ...] = ()
    label: int | None = None
    one_hot: tuple[int, ...] = ()
    split: int | None = None
    unused: tuple[str, ...] = ()

    @property
    def label_name(self) -> str:
        """The name of the column of labels, without case, spaces and signs; empty if it has none."""
        return plain_name(self.head[self.label]) if self.head and self.label is not None else ""

    @property
    def needed(self) -> int:
        """Cells that a row must have."""
        return 1 + max(at for at in (self.image, self.label, self.split, *self.pixels, *self.one_hot) if at is not None)


def find_columns(path: Path, first: Sequence[str], is_file: Callable[[str], bool]) -> Columns:
    """Find the columns of a table from its first row, which is its header if it names a column that is known.

    A first row that names an image is no header; then its label is the one other cell that is no split and no image.

    Raises InputError that names the header and the known names if there is no column of images or none of labels, and
    for a table without a header that has several other cells.
    """
    names = list(map(plain_name, first))
    pixels = tuple(at for at, name in enumerate(first) if _PIXEL.fullmatch(name.lower()))
    pixels = pixels if len(pixels) >= _MANY else ()
    image = None if pixels else _first_of(IMAGES, names)
    label, split = _first_of(LABELS, names), _first_of(SPLITS, names)
    if label is not None and names[label] == "y" and "x" in names:  # a place in the image
        label = None
    named = next((at for at, cell in enumerate(first) if is_file(cell) or cell.lower().endswith(ENDINGS)), None)
    if named is not None and len(first) > 1 and (image is None or label is None):
        last = max(at for at, cell in enumerate(first) if cell)  # the empty ones behind it end the row
        could = [at for at, cell in enumerate(first[: last + 1])
                 if at != named and cell.casefold() not in WORDS and not cell.lower().endswith(ENDINGS)]  # fmt: skip
        if not could and len(first) == 2:
            could = [1 - named]
        if len(could) != 1:
            cells = ",".join(first[:12]) + (", ..." if len(first) > 12 else "")
            raise InputError(
                f"{path} has no header, and begins with {cells[:200]}: it is not clear which column has the labels."
                " Name the columns in a first line, such as path,label"
            )
        label = could[0]
        rest = [f"{at + 1} ({cell})" for at, cell in enumerate(first) if at not in (named, label)]
        return Columns((), image=named, label=label, unused=tuple(rest))
    if len(first) >= _MANY and all(re.fullmatch(r"[0-9.]+", cell) for cell in first):
        raise InputError(
            f"{path} has {len(first)} columns of numbers and no header: name them, as label,pixel0,pixel1, ..."
        )
    head = tuple(first)
    used = {image, label, split, *pixels}
    others = [at for at, name in enumerate(first) if at not in used and not INDEX.fullmatch(name.lower())]
    one_hot = tuple(others) if label is None and (image is not None or pixels) and len(others) > 1 else ()
    if (image is None and not pixels) or (label is None and not one_hot):
        part, known = ("label", LABELS) if image is not None or pixels else ("path", IMAGES)
        raise no_column(path, head, part, known)
    if pixels and isqrt(len(pixels)) ** 2 != len(pixels):
        raise InputError(
            f"{path} has {len(pixels)} columns of pixels: only those of square images of one channel are read"
        )
    unused = () if one_hot else tuple(first[at] for at in others)
    return Columns(head, image, pixels, label, one_hot, split, unused)


def plain_name(name: str) -> str:
    """The name of a column without case, spaces and signs."""
    return re.sub(r"[^a-z0-9:#]", "", name.lower())


def no_column(path: Path, head: Sequence[str], part: str = "label", known: Sequence[str] = LABELS) -> InputError:
    """The error for a table that has no column of images (`path`) or of labels."""
    if not any(head):
        return InputError(f"{path} is empty: give a table with a column of images and one of labels")
    shown = ",".join(head[:12]) + (", ..." if len(head) > 12 else "")
    both = "" if part == "label" else f" and one of labels ({', '.join(LABELS[:8])}, ...)"
    return InputError(
        f"{path} has no column {part}: its first line is {shown[:200]}. Name a column of"
        f" {'labels' if part == 'label' else 'images'} ({', '.join(known[:20])}, ...){both}"
    )


def _first_of(known: Sequence[str], names: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)
