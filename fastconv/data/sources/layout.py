"""Finds the splits and classes of images in folders, as archives and people lay them out."""

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastconv.data.sources.base import natural
from fastconv.data.sources.walk import Folder, describe_hidden, describe_others
from fastconv.system.errors import InputError
from fastconv.system.wording import counted

TRAIN, TEST, VAL = "train", "test", "val"
# Words in the names of folders that are splits.
WORDS = {
    **dict.fromkeys(("train", "training", "trainset"), TRAIN),
    **dict.fromkeys(("test", "testing", "testset"), TEST),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "eval", "evaluation"), VAL),
}
# Folders beside the images of YOLO, Pascal VOC, COCO and the labelling tools that write these.
DETECTION = frozenset(("labels", "annotations", "imagesets", "segmentationclass"))
SHOWN = 3  # names in a sentence


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
    base, notes = _unwrapped(top), []
    splits, more = _splits(base)
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


def role_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that a folder's name tells of, such as train for seg_train, and the other words of the name."""
    words = [word for word in re.split(r"[^0-9a-z]+", name.casefold()) if word]
    roles = [word for word in words if word in WORDS]
    if len(roles) != 1:
        return None, tuple(words)
    return WORDS[roles[0]], tuple(word for word in words if word != roles[0])


def _key(name: str) -> str:
    """Equal for the same name in any Unicode form: macOS and some archives take accents apart."""
    return unicodedata.normalize("NFC", name)


def _is_class(folder: Folder) -> bool:
    return not folder.name.startswith("__")


def _class_keys(split: Folder) -> set[str]:
    return {_key(folder.name) for folder in split.folders if _is_class(folder)}


def _classes(splits: list[Folder]) -> tuple[dict[str, list[Folder]], list[dict[str, list[Folder]]]]:
    """The folders of each class of all splits, in the order of the classes, and those of each split."""
    found: list[dict[str, list[Folder]]] = []
    for split in splits:
        found.append({})
        for folder in split.folders:
            if _is_class(folder):
                found[-1].setdefault(_key(folder.name), []).append(folder)
    together: dict[str, list[Folder]] = {}
    for each in found:
        for key, folders in each.items():
            together.setdefault(key, []).extend(folders)
    ordered = sorted(together, key=lambda key: natural(_shown_name(together[key])))
    return {key: together[key] for key in ordered}, found


def _shown_name(folders: list[Folder]) -> str:
    """The name of a class: that of its folders, or the composed form if they differ in it."""
    names = {folder.name for folder in folders}
    return names.pop() if len(names) == 1 else _key(names.pop())


def _unwrapped(top: Folder) -> Folder:
    """Look through folders that have nothing but one folder, to the one with splits or classes; `top` if there is
    none."""
    folder = top
    for _ in range(10):
        if folder.images or _has_splits(folder):
            break
        inside = [each for each in folder.folders if each.has_images]
        if len(inside) != 1 or (len(folder.folders) > 1 and not _has_splits(inside[0])):
            break
        folder = inside[0]
    return folder if len(folder.folders) > 1 or _has_splits(folder) else top


def _has_splits(folder: Folder) -> bool:
    roles = [role_of(each.name) for each in folder.folders]
    trains = [rest for each, (role, rest) in zip(folder.folders, roles, strict=True) if role == TRAIN and each.folders]
    return () in trains or (bool(trains) and any(role in (TEST, VAL) for role, _ in roles))


def _labelled(split: Folder) -> Folder:
    """The folder of a split that has its classes: itself, or the one folder inside that wraps them."""
    return _unwrapped(split) if len(split.folders) == 1 else split


def _splits(base: Folder) -> tuple[list[Folder], list[str]]:
    """The training split and maybe the test split, or `base` itself if it has no splits; and sentences about it."""
    roles = {folder.name: role_of(folder.name) for folder in base.folders}
    train = _train_of(base, roles)
    if train is None:
        return [base], []
    inner, words = _labelled(train), roles[train.name][1]
    names = _class_keys(inner)
    if not names:
        raise InputError(
            f"{train.described} but no folders of classes: make one for each class, or list the images with"
            " their labels in a table (dataset=csv)"
        )
    others = [folder for folder in base.folders if folder is not train and folder.has_images]
    notes, tests = [], []
    for folder in others:
        role, rest = roles[folder.name]
        keys = _class_keys(_labelled(folder))
        if role in (TEST, VAL) and (keys & names or len(keys) > 1):
            tests.append(folder)
        elif role in (TEST, VAL) and (rest == words or not rest):
            notes.append(f"left out: {folder.described} without folders of classes")
        else:
            notes.append(f"left out: {folder.described}, beside {train.name}")
    tests.sort(key=lambda folder: roles[folder.name][0] == VAL)
    notes += [f"{folder.described} used neither to train nor to test" for folder in tests[1:]]
    if not tests:
        notes += [f"{each.path} has no images: a part of the others is kept to test with{each.needs_heif}"
                  for each in base.folders if roles[each.name][0] in (TEST, VAL) and not each.has_images]  # fmt: skip
        return [inner], notes
    if words or roles[tests[0].name][1]:
        notes.insert(0, f"{train.name} is to train on and {tests[0].name} to test with")
    return [inner, _labelled(tests[0])], notes


def _train_of(base: Folder, roles: dict[str, tuple[str | None, tuple[str, ...]]]) -> Folder | None:
    """The folder of the training split; None if the folders of `base` are classes.

    Raises InputError if they may be either.
    """
    folders = [folder for folder in base.folders if folder.has_images or folder.folders]
    trains = [folder for folder in folders if roles[folder.name][0] == TRAIN]
    tests = [folder for folder in folders if roles[folder.name][0] in (TEST, VAL)]
    exact = [folder for folder in trains if not roles[folder.name][1]]
    for train in exact:
        rest = [folder for folder in folders if folder not in exact and folder not in tests]
        if not train.folders:  # a class of locomotives, or images without classes
            return None if rest else train
        names = _class_keys(_labelled(train))
        if rest and not tests and not any(names & _class_keys(_labelled(folder)) for folder in rest):
            raise InputError(
                f"{base.path} has train beside {_listed(folder.name for folder in rest)}: if train is a split, give"
                f" dataset.root={train.path}, or move the others; if it is a class, name it otherwise"
            )
        return train
    for train in trains:
        names, words = _class_keys(_labelled(train)), roles[train.name][1]
        for test in tests:
            same_words = roles[test.name][1] == words
            if train.folders and (names & _class_keys(_labelled(test)) or (same_words and len(test.folders) <= 1)):
                return train
            if same_words and not train.folders and not test.folders:
                raise InputError(
                    f"{base.path} has {train.name} and {test.name}, which look like splits of one class: put them"
                    " into folders train and test that have a folder for each class"
                )
    shared = set.intersection(*(_class_keys(_labelled(folder)) for folder in tests)) if len(tests) > 1 else set()
    if shared and len(tests) == len(folders):
        raise InputError(f"{base.path} has {_listed(folder.name for folder in tests)}, but no train to train on")
    if len(folders) == len(tests) and not any(folder.folders for folder in folders) and len(tests) > 1:
        raise InputError(f"{base.path} has {_listed(folder.name for folder in tests)}, but no folders of classes")
    return None


def _doubts(base: Folder, classes: list[Folder]) -> list[str]:
    """Sentences about classes that might be something else. Raises InputError for one that is a data set."""
    lines = []
    for folder in classes:
        role, rest = role_of(folder.name)
        if role and not rest and folder.has_images:
            lines.append(f"{folder.path} is read as a class: if it is a split, give each split a folder for each class")
    inside = [_class_keys(folder) for folder in classes if folder.has_images]
    if len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        lines.append(
            f"{_listed(folder.name for folder in classes)} are read as classes, but have the same folders"
            f" ({_listed(sorted(inside[0]))}): if they are splits, name them train and test"
        )
    with_images = [folder for folder in classes if folder.has_images]
    holders = [folder for folder in with_images if _has_splits(_unwrapped(folder))]
    if holders and len(holders) < len(with_images):
        raise InputError(
            f"{holders[0].path} has splits of its own, but lies beside"
            f" {_listed(folder.name for folder in with_images if folder is not holders[0])}: give the data set itself,"
            f" dataset.root={_unwrapped(holders[0]).path}"
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
        line = f"dataset.root={root} has {_listed(classes)}, as data sets for the detection of objects do"
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
    return f"class {names[0]}" if len(names) == 1 else f"{len(names)} classes ({_listed(names)})"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) > SHOWN + 1:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
