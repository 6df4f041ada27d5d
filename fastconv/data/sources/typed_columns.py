"""Which columns of a table whose cells have types hold the images, the labels and the split."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.data.sources.table_columns import IMAGES, INDEX, LABELS, SPLITS, plain_name
from fastconv.system.errors import InputError
from fastconv.system.wording import first_names

# Kinds of columns: of images, of paths of images, of labels with the names of their classes, of values that can be
# neither, and others.
IMAGE, PATH, CLASSES, NEITHER, OTHER = "image", "path", "classes", "neither", "other"
# Columns that an error shows.
SHOWN = 12


@dataclass(frozen=True)
class TypedColumn:
    """A column by its name and its kind, one of the five above."""

    name: str
    kind: str


@dataclass(frozen=True)
class Chosen:
    """The names of the columns of images, of labels and, if there is one, of the split; `unused` are the others."""

    image: str
    label: str
    split: str | None
    unused: tuple[str, ...]


def choose_columns(
    columns: Sequence[TypedColumn], where: str, image: str | None = None, label: str | None = None, how: str = ""
) -> Chosen:
    """Choose the columns of images and of labels, if it is clear which they are.

    The images are in the one column of images or of paths, else in the one with a name that is known
    (`table_columns.IMAGES`). A known name decides between several; that of a path does not where there are images too.
    The labels are in the one column that has a known name (`LABELS`) or classes, or in the only other one of the table.
    The name y is that of a place beside an x.

    Args:
        columns: of the table.
        where: the table, for errors.
        image: the name of the column of images; None to choose it.
        label: the same for the labels.
        how: how to name a column, for errors, such as `image_column="NAME"`; the part `image` stands for either.

    Raises InputError, naming the columns, if none or several may be meant.
    """
    names = [column.name for column in columns]
    there = first_names(names, SHOWN)
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{where} has several columns {min(twice)}: give each a name of its own")
    for given, what in ((image, "image"), (label, "label")):
        if given is not None and given not in names:
            raise InputError(f"{where} has no column {given} for the {what}s: its columns are {there}")
    if image is not None and image == label:
        raise InputError(f"{where}: the column {image} cannot have both the images and the labels")

    def one_of(what: str, found: Sequence[str]) -> str:
        if len(found) == 1:
            return found[0]
        told = f"several columns may have the {what}s ({', '.join(found)})" if found else f"no column has the {what}s"
        name = how.replace("image", what)
        raise InputError(f"{where}: {told}; its columns are {there}. {name or f'Name one {what}, and no other so'}")

    split = next((each.name for known in SPLITS for each in columns
                  if plain_name(each.name) == known and each.name not in (image, label)), None)  # fmt: skip
    if image is None:
        image = one_of("image", _images([each for each in columns if each.name not in (label, split)]))
    if label is None:
        label = one_of("label", _labels([each for each in columns if each.name not in (image, split)], names))
    unused = tuple(name for name in names if name not in (image, label, split) and not INDEX.fullmatch(name.lower()))
    return Chosen(image, label, split, unused)


def _images(columns: Sequence[TypedColumn]) -> list[str]:
    """Names of the columns that may hold the images."""
    of_images, of_paths = ([each.name for each in columns if each.kind == kind] for kind in (IMAGE, PATH))
    if of_images or of_paths:
        known = [name for name in of_images or of_paths if plain_name(name) in IMAGES]
        return known if len(known) == 1 else of_images + of_paths
    return [each.name for each in columns if each.kind == OTHER and plain_name(each.name) in IMAGES]


def _labels(columns: Sequence[TypedColumn], all_names: Sequence[str]) -> list[str]:
    """Names of the columns that may hold the labels."""
    columns = [each for each in columns if not INDEX.fullmatch(each.name.lower())]
    could = [each for each in columns if each.kind in (CLASSES, OTHER)]
    place = {"y"} if "x" in map(plain_name, all_names) else set()
    known = set(LABELS) - place
    if likely := [each.name for each in could if each.kind == CLASSES or plain_name(each.name) in known]:
        return likely
    if len(columns) == 1:
        return [each.name for each in could if plain_name(each.name) not in IMAGES]
    return [each.name for each in could] if len(could) != 1 else [each.name for each in columns]
