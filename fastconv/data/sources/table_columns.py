"""Which columns of a table are the images, the labels and the split, by the names that people give them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from fastconv.data.sources.formats import ENDINGS
from fastconv.data.sources.split_folders import WORDS
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
    column each; its label is in `label`, or the one of `one_hot` that is 1. `unused` are names of other columns, and
    `rivals` the columns among these that have names of labels too."""

    head: tuple[str, ...]
    image: int | None = None
    pixels: tuple[int, ...] = ()
    label: int | None = None
    one_hot: tuple[int, ...] = ()
    split: int | None = None
    unused: tuple[str, ...] = ()
    rivals: tuple[int, ...] = ()

    @property
    def label_name(self) -> str:
        """The name of the column of labels, without case, spaces and signs; empty if it has none."""
        return plain_name(self.head[self.label]) if self.head and self.label is not None else ""

    @property
    def needed(self) -> int:
        """Cells that a row must have."""
        return 1 + max(at for at in (self.image, self.label, self.split, *self.pixels, *self.one_hot) if at is not None)


def find_columns(
    path: Path,
    first: Sequence[str],
    is_file: Callable[[str], bool],
    image_name: str | None = None,
    label_name: str | None = None,
) -> Columns:
    """Find the columns of a table from its first row, which is its header if it names a column that is known.

    A first row that names an image is no header; then its label is the one other cell that is no split and no image.

    Args:
        path: of the table, for errors.
        first: the cells of its first row.
        is_file: whether there is a file of that name.
        image_name: the column of images in the header; None to find it.
        label_name: the same for the labels.

    Raises InputError that names the header and the known names if there is no column of images or none of labels, and
    for a table without a header that has several other cells.
    """
    for given in (image_name, label_name):
        if given is not None and given not in first:
            raise InputError(f"{path} has no column {given}: its first line is {_shown(first)}")
    if image_name is not None and image_name == label_name:
        raise InputError(f"{path}: the column {image_name} cannot have both the images and the labels")
    names = list(map(plain_name, first))
    pixels = tuple(at for at, name in enumerate(first) if _PIXEL.fullmatch(name.lower()))
    pixels = pixels if len(pixels) >= _MANY and image_name is None else ()
    labels = [known for known in LABELS if known != "y" or "x" not in names]  # a y beside an x is a place in the image
    label = _first_of(labels, names) if label_name is None else first.index(label_name)
    kept = [name if at != label or label_name is None else "" for at, name in enumerate(names)]
    image = None if pixels else _first_of(IMAGES, kept) if image_name is None else first.index(image_name)
    split = _first_of(SPLITS, [name if at != image or image_name is None else "" for at, name in enumerate(kept)])
    named = next((at for at, cell in enumerate(first) if is_file(cell) or cell.lower().endswith(ENDINGS)), None)
    if named is not None and len(first) > 1 and (image is None or label is None) and not (image_name or label_name):
        last = max(at for at, cell in enumerate(first) if cell)  # the empty ones behind it end the row
        could = [at for at, cell in enumerate(first[: last + 1])
                 if at != named and cell.casefold() not in WORDS and not cell.lower().endswith(ENDINGS)]  # fmt: skip
        if not could and len(first) == 2:
            could = [1 - named]
        if len(could) != 1:
            raise InputError(
                f"{path} has no header, and begins with {_shown(first)}: it is not clear which column has the labels."
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
    if one_hot:
        return Columns(head, image, pixels, label, one_hot, split)
    rivals = tuple(at for at in others if names[at] in labels and label_name is None)
    return Columns(head, image, pixels, label, (), split, tuple(first[at] for at in others), rivals)


def plain_name(name: str) -> str:
    """The name of a column without case, spaces and signs."""
    return re.sub(r"[^a-z0-9:#]", "", name.lower())


def no_column(path: Path, head: Sequence[str], part: str = "label", known: Sequence[str] = LABELS) -> InputError:
    """The error for a table that has no column of images (`path`) or of labels."""
    if not any(head):
        return InputError(f"{path} is empty: give a table with a column of images and one of labels")
    both = "" if part == "label" else f" and one of labels ({', '.join(LABELS[:8])}, ...)"
    return InputError(
        f"{path} has no column {part}: its first line is {_shown(head)}. Name a column of"
        f" {'labels' if part == 'label' else 'images'} ({', '.join(known[:20])}, ...){both}, or say which it is:"
        f" dataset.{'label' if part == 'label' else 'image'}_column=NAME"
    )


def _shown(cells: Sequence[str]) -> str:
    return (",".join(cells[:12]) + (", ..." if len(cells) > 12 else ""))[:200]


def _first_of(known: Sequence[str], names: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)
