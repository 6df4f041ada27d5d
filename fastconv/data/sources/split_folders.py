"""Finds the folders of the splits, as archives and people name and nest them."""

import re

from fastconv.data.sources.walk import Folder
from fastconv.system.errors import InputError
from fastconv.system.names import nfc
from fastconv.system.wording import listed

TRAIN, TEST, VAL = "train", "test", "val"
# Words in the names of folders that are splits.
WORDS = {
    **dict.fromkeys(("train", "training", "trainset"), TRAIN),
    **dict.fromkeys(("test", "testing", "testset"), TEST),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "eval", "evaluation"), VAL),
}


def find_splits(base: Folder) -> tuple[list[Folder], list[str]]:
    """The training split and maybe the test split, or `base` itself if it has no splits; and sentences about it."""
    roles = {folder.name: role_of(folder.name) for folder in base.folders}
    train = _train_of(base, roles)
    if train is None:
        return [base], []
    inner, words = _labelled(train), roles[train.name][1]
    names = class_keys(inner)
    if not names:
        raise InputError(
            f"{train.described} but no folders of classes: make one for each class, or list the images with"
            " their labels in a table (dataset=csv)"
        )
    others = [folder for folder in base.folders if folder is not train and folder.has_images]
    notes, tests = [], []
    for folder in others:
        role, rest = roles[folder.name]
        keys = class_keys(_labelled(folder))
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


def role_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that a folder's name tells of, such as train for seg_train, and the other words of the name."""
    words = [word for word in re.split(r"[^0-9a-z]+", name.casefold()) if word]
    roles = [word for word in words if word in WORDS]
    if len(roles) != 1:
        return None, tuple(words)
    return WORDS[roles[0]], tuple(word for word in words if word != roles[0])


def has_splits(folder: Folder) -> bool:
    """Whether the folders inside are splits by their names: one to train on, and another unless it is just `train`."""
    roles = [role_of(each.name) for each in folder.folders]
    trains = [rest for each, (role, rest) in zip(folder.folders, roles, strict=True) if role == TRAIN and each.folders]
    return () in trains or (bool(trains) and any(role in (TEST, VAL) for role, _ in roles))


def unwrapped(top: Folder) -> Folder:
    """Look through folders that have nothing but one folder, to the one with splits or classes; `top` if there is
    none."""
    folder = top
    for _ in range(10):
        if folder.images or has_splits(folder):
            break
        inside = [each for each in folder.folders if each.has_images]
        if len(inside) != 1 or (len(folder.folders) > 1 and not has_splits(inside[0])):
            break
        folder = inside[0]
    return folder if len(folder.folders) > 1 or has_splits(folder) else top


def class_keys(split: Folder) -> set[str]:
    """The classes of a split, by their names in one form."""
    return {nfc(folder.name) for folder in split.folders if is_class(folder)}


def is_class(folder: Folder) -> bool:
    """Whether a folder may be a class: not `__MACOSX`, which archives have."""
    return not folder.name.startswith("__")


def _labelled(split: Folder) -> Folder:
    """The folder of a split that has its classes: itself, or the one folder inside that wraps them."""
    return unwrapped(split) if len(split.folders) == 1 else split


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
        names = class_keys(_labelled(train))
        if rest and not tests and not any(names & class_keys(_labelled(folder)) for folder in rest):
            raise InputError(
                f"{base.path} has train beside {listed(folder.name for folder in rest)}: if train is a split, give"
                f" dataset.root={train.path}, or move the others; if it is a class, name it otherwise"
            )
        return train
    for train in trains:
        names, words = class_keys(_labelled(train)), roles[train.name][1]
        for test in tests:
            same_words = roles[test.name][1] == words
            if train.folders and (names & class_keys(_labelled(test)) or (same_words and len(test.folders) <= 1)):
                return train
            if same_words and not train.folders and not test.folders:
                raise InputError(
                    f"{base.path} has {train.name} and {test.name}, which look like splits of one class: put them"
                    " into folders train and test that have a folder for each class"
                )
    shared = set.intersection(*(class_keys(_labelled(folder)) for folder in tests)) if len(tests) > 1 else set()
    if shared and len(tests) == len(folders):
        raise InputError(f"{base.path} has {listed(folder.name for folder in tests)}, but no train to train on")
    if len(folders) == len(tests) and not any(folder.folders for folder in folders) and len(tests) > 1:
        raise InputError(f"{base.path} has {listed(folder.name for folder in tests)}, but no folders of classes")
    return None
