"""Finds the classes of images in folders, in each split, as archives and people lay them out."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastconv.data.sources.base import natural
from fastconv.data.sources.split_folders import class_keys, find_splits, has_splits, is_class, role_of, unwrapped
from fastconv.data.sources.walk import Folder, describe_hidden, describe_others
from fastconv.system.errors import InputError
from fastconv.system.names import nfc
from fastconv.system.wording import counted, listed

# Folders beside the images of YOLO, Pascal VOC, COCO and the labelling tools that write these.
DETECTION = frozenset(("labels", "annotations", "imagesets", "segmentationclass"))


@dataclass(frozen=True)
class Layout:
    """The images of each class, in a training split and maybe a test split.

    `images`: for each split, for each class, the entries of its images. `notes`: sentences about how the folders are
    understood and what is passed over. `problems`: what keeps the images from being trained on.
    """

    root: Path
    classes: list[str]
    images: list[list[list[os.DirEntry[str]]]]
    notes: list[str]
    problems: list[str]
    hidden: list[Path]

    def hidden_note(self) -> str:
        """A sentence about hidden images, which takes a walk through hidden folders; empty if there are none."""
        return describe_hidden(self.hidden, self.root)


def find_layout(root: Path, skip: Iterable[Path] = ()) -> Layout:
    """Find splits and classes below a folder.

    Args:
        root: has a folder for each class, or folders of splits that have these; folders that only wrap others are
            looked through, as in train/train/class.
        skip: folders that are neither classes nor splits.

    Raises InputError if there are no classes at all, or if the folders can be understood in several ways.
    """
    top = Folder(root, frozenset(os.path.realpath(path) for path in skip) - {os.path.realpath(root)})
    base, notes = unwrapped(top), []
    splits, more = find_splits(base)
    notes += more
    if len(splits) == 1 and splits[0] is base and base is not top:
        notes.append(f"the classes are the folders of {base.path}")
    classes, found = _classes(splits)
    read = [folder for split in found for folders in split.values() for folder in folders]
    if not read:
        count = sum(len(split.images) for split in splits)
        there = f"has {counted(count, 'image')}, but " if count else "has "
        raise InputError(
            f"dataset.root={root} {there}no folders of classes: make one for each class, two or more, with its images"
        )
    if len(splits) == 1:
        notes += _doubts(base, read)
    loose = [entry.path for split in splits for entry in split.images]
    if loose:
        notes.append(f"left out, beside the folders of classes: {counted(len(loose), 'image')}, such as {loose[0]}")
    inside = [each for folder in read for each in folder.walk()]
    if line := describe_others((path for folder in inside for path in folder.others), root):
        notes.append(line)
    hidden = [path for folder in ([top] if top is base else [top, base]) for path in folder.hidden]
    hidden += [path for split in splits if split is not base for path in split.hidden]
    hidden += [path for folder in inside for path in folder.hidden]
    images = [[[entry for folder in split.get(key, ()) for entry in folder.all_images] for key in classes]
              for split in found]  # fmt: skip
    names = [_shown_name(folders) for folders in classes.values()]
    return Layout(root, names, images, notes, _problems(root, splits, names, images), hidden)


def _classes(splits: list[Folder]) -> tuple[dict[str, list[Folder]], list[dict[str, list[Folder]]]]:
    """The folders of each class of all splits, in the order of the classes, and those of each split."""
    found: list[dict[str, list[Folder]]] = []
    for split in splits:
        found.append({})
        for folder in split.folders:
            if is_class(folder):
                found[-1].setdefault(nfc(folder.name), []).append(folder)
    together: dict[str, list[Folder]] = {}
    for each in found:
        for key, folders in each.items():
            together.setdefault(key, []).extend(folders)
    ordered = sorted(together, key=lambda key: natural(_shown_name(together[key])))
    return {key: together[key] for key in ordered}, found


def _shown_name(folders: list[Folder]) -> str:
    """The name of a class: that of its folders, or the composed form if they differ in it."""
    names = {folder.name for folder in folders}
    return names.pop() if len(names) == 1 else nfc(names.pop())


def _doubts(base: Folder, classes: list[Folder]) -> list[str]:
    """Sentences about classes that might be something else. Raises InputError for one that is a data set."""
    lines = []
    for folder in classes:
        role, rest = role_of(folder.name)
        if role and not rest and folder.has_images:
            lines.append(f"{folder.path} is read as a class: if it is a split, give each split a folder for each class")
    inside = [class_keys(folder) for folder in classes if folder.has_images]
    if len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        lines.append(
            f"{listed(folder.name for folder in classes)} are read as classes, but have the same folders"
            f" ({listed(sorted(inside[0]))}): if they are splits, name them train and test"
        )
    with_images = [folder for folder in classes if folder.has_images]
    holders = [folder for folder in with_images if has_splits(unwrapped(folder))]
    if holders and len(holders) < len(with_images):
        raise InputError(
            f"{holders[0].path} has splits of its own, but lies beside"
            f" {listed(folder.name for folder in with_images if folder is not holders[0])}: give the data set itself,"
            f" dataset.root={unwrapped(holders[0]).path}"
        )
    return lines


def _problems(
    root: Path, splits: list[Folder], classes: list[str], images: list[list[list[os.DirEntry[str]]]]
) -> list[str]:
    """All problems that keep the images from being trained on."""
    problems = []
    heif = "".join({split.needs_heif for split in splits})
    empty = [name for name, *counts in zip(classes, *images, strict=True) if not any(counts)]
    if empty and len(empty) == len(classes):
        none = counted(len(classes), "folder of a class has", "folders of classes have")
        return [f"dataset.root={root} has no images: its {none} none{heif}"]
    if empty and DETECTION & {name.casefold() for name in empty} and len(classes) - len(empty) == 1:
        line = f"dataset.root={root} has {listed(classes)}, as data sets for the detection of objects do"
        return [f"{line}: make a folder of images for each class, or list the images in a table (dataset=csv)"]
    if len(classes) == 1:
        problems.append(f"dataset.root={root} has a single class, {classes[0]}: a classifier needs two or more")
    if empty:
        problems.append(f"there is no image of {_of(empty)}: add some, or remove the folder{heif}")
    both = list(zip(classes, *images, strict=True)) if len(splits) > 1 else []
    if absent := [name for name, train, test in both if test and not train]:
        problems.append(
            f"there is no image of {_of(absent)} to train on in {splits[0].path}, but there is in"
            f" {splits[1].path}{_only_case(absent, classes)}: add some, or remove the folder{heif}"
        )
    return problems


def _only_case(names: list[str], classes: list[str]) -> str:
    """A remark if a class differs from another only in case or in spaces."""
    for name in names:
        for other in classes:
            if other != name and other.casefold().split() == name.casefold().split():
                return f" ({name} is written {other} there)"
    return ""


def _of(names: list[str]) -> str:
    return f"class {names[0]}" if len(names) == 1 else f"{len(names)} classes ({listed(names)})"
