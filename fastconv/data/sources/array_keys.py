"""Which arrays of a .npz are the images and labels of each split, by the names that people give them."""

import re
from collections.abc import Collection
from pathlib import Path

from fastconv.system.errors import InputError
from fastconv.system.wording import first_names

# If a split has several, the first of them here counts.
IMAGES = ("images", "image", "x", "data", "imgs", "img", "inputs", "pixels")
LABELS = ("labels", "label", "y", "targets", "target", "classes")
SPLITS = {"": ("",), "train": ("train", "training"), "test": ("test", "testing"),
          "val": ("val", "valid", "validation", "dev")}  # fmt: skip
WANTED = "images and labels (or x_train, y_train, x_test, y_test, or train_images, train_labels, ...)"
# Names of arrays in an error.
SHOWN = 12


def find_keys(path: Path, names: Collection[str]) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Find the names of (images, labels) of the training split, and of a test split if there is one.

    The second value are names of arrays that are not used. Raises InputError that names the arrays there are and those
    that are wanted.
    """
    roles: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for name in names:
        if role := _role(name):
            split, kind, rank = role
            roles.setdefault((split, kind), []).append((rank, name))
    pairs = {}
    for split in SPLITS:
        images, labels = (min(roles.get((split, kind), [(0, "")]))[1] for kind in ("images", "labels"))
        if images and labels:
            pairs[split] = (images, labels)
    train = next((pairs[split] for split in ("", "train") if split in pairs), None)
    if train is None:
        there = f"the arrays {first_names(sorted(names), SHOWN)}" if names else "no arrays"
        raise InputError(f"{path} has {there}: {WANTED} are wanted")
    for kind, missing in (("images", "labels"), ("labels", "images")):
        if ("test", kind) in roles and ("test", missing) not in roles:
            there = min(roles["test", kind])[1]
            arrays = first_names(sorted(names), SHOWN)
            raise InputError(f"{path} has {there}, but no {missing} for it: the arrays are {arrays}")
    test = next((pairs[split] for split in ("test", "val") if split in pairs), None)
    used = [train, test] if test else [train]
    return used, tuple(name for name in names if not any(name in pair for pair in used))


def _role(name: str) -> tuple[str, str, int] | None:
    """The split ("", train, test or val), `images` or `labels`, and the rank among its names; None if it is neither."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = re.sub(r"^([xy])(?=(train|test|val)$)", r"\1_", words)
    parts = [part for part in re.split(r"[^a-z]+", words) if part]
    splits = [split for part in parts for split, known in SPLITS.items() if part in known]
    nouns = [part for part in parts if part in IMAGES or part in LABELS]
    if len(nouns) != 1 or len(splits) > 1 or len(parts) != 1 + len(splits):
        return None
    kind = "images" if nouns[0] in IMAGES else "labels"
    return splits[0] if splits else "", kind, (IMAGES if kind == "images" else LABELS).index(nouns[0])
