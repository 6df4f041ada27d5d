"""Labels as tables, arrays and tars spell them: which are missing, which are the same, and the order of the classes."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from fastconv.data.sources.base import natural
from fastconv.system.errors import InputError
from fastconv.system.names import nfc
from fastconv.system.wording import counted

# How pandas, databases and spreadsheets write that there is no value. None and NA are left to be names of classes.
_NO_VALUE = ("", "nan", "-nan", "null", "<na>", "#n/a", "#na")
NO_LABEL = "no label"
# Names of classes that may have been meant as no value.
_DOUBTFUL = ("none", "na", "n/a", "nil", "unknown", "no label", "nolabel", "unlabeled", "unlabelled", "undefined")
# What stands between several labels in one text. A comma does too, but names of classes have commas as well.
_BETWEEN = re.compile(r"\s*[|;]\s*")
_INFINITE = re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)
_WHOLE = re.compile(r"-?[0-9]{1,18}(\.0*)?")


def label_of(text: str) -> str | None:
    """The label that a text stands for, without spaces around it; None if it says that there is none."""
    text = text.strip()
    return None if text.lower() in _NO_VALUE else text


def class_names(labels: Iterable[str], where: object, left_out: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Map each label as it is spelled to the name of its class, in the order of the classes.

    Labels that are equal as numbers (0 and 0.0) or as truth values (True and true), or that differ only in how Unicode
    composes their accents, are one class. The order is that of the numbers, then that of the words, the same in every
    process.

    Args:
        labels: the labels, as they are spelled.
        where: the file, for errors.
        left_out: (name, reason) of images that have none of these labels, for errors.

    Raises InputError for fewer than two classes, for infinity or -1 among other numbers, since these usually mean no
    label, and for a label that joins others.
    """
    spelled = set(labels)
    if joined := combined(spelled):
        raise InputError(
            f"{where} has the label {min(joined)}, which is several in one: a classifier needs one for each image"
        )
    spellings = Counter(map(nfc, spelled))
    names = {label: label if spellings[nfc(label)] == 1 else nfc(label) for label in spelled}
    infinite = sorted(label for label in spelled if _INFINITE.fullmatch(label))
    if infinite and all(map(_is_number, spelled)):
        raise InputError(f"{where} has the label {infinite[0]} beside numbers: correct it or leave these images out")
    if all(_WHOLE.fullmatch(label) for label in spelled):
        if any("." not in label for label in spelled):  # else all are written so, and may stay
            names = {label: label.partition(".")[0] for label in spelled}
        if "-1" in names.values() and sum(not name.startswith("-") for name in names.values()) > 1:
            raise InputError(
                f"{where} has the label -1 beside other numbers, which usually means no label: leave these images out,"
                " or give the class another name"
            )
    elif spelled <= {"True", "False", "TRUE", "FALSE", "true", "false"} and len(spelled) > 2:
        names = {label: label.capitalize() for label in spelled}
    classes = sorted(set(names.values()), key=natural)
    if len(classes) < 2:
        some = f"{where} has a single label, {classes[0]}" if classes else f"{where} has no labels"
        if left_out:
            name, why = left_out[0]
            some += f", and {counted(len(left_out), 'image is', 'images are')} left out, such as {name} ({why})"
        raise InputError(f"{some}: a classifier needs images of two classes or more")
    return dict(sorted(names.items(), key=lambda pair: (natural(pair[1]), pair[0])))


def combined(labels: Collection[str], always: bool = False) -> dict[str, list[str]]:
    """The labels that join several, as cat|dog and cat;dog do, with their parts.

    A part of such a label is a label of its own; names that merely have a bar in them are left.

    Args:
        always: a bar never is a part of a name here.
    """
    known, found = set(labels), {}
    for label in known:
        parts = [part for part in _BETWEEN.split(label) if part]
        if len(parts) > 1 and (known.intersection(parts) or (always and "|" in label)):
            found[label] = parts
    return found


def _shown(name: str) -> str:
    """A name in which blanks at its ends, and letters that cannot be seen or told from others, can be seen."""
    return ascii(name) if name != _plain(name) else repr(name) if name != name.strip() else name


def _plain(name: str) -> str:
    """A name without letters that cannot be seen, and in one form of each letter."""
    return "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")


def _meaning(name: str) -> Hashable:
    """Equal for names that look alike or mean the same: equal numbers, and what differs in case, blanks, zeros in front
    and letters that cannot be seen."""
    try:
        if (number := Decimal(name)).is_finite():
            return number
    except InvalidOperation:
        pass
    return re.sub(r"^0+(?=[0-9])", "", " ".join(_plain(name).casefold().split()))


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def numbered(names: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """The classes among the names that `class_names` gives, and the number of each label's class."""
    classes = list(dict.fromkeys(names.values()))
    numbers = {name: at for at, name in enumerate(classes)}
    return classes, {label: numbers[name] for label, name in names.items()}


def require_names(where: str, classes: Sequence[str]) -> None:
    """Raise InputError for classes of one name: results and checkpoints tell classes by their names."""
    name, count = Counter(map(nfc, classes)).most_common(1)[0] if classes else ("", 0)
    if count > 1:
        raise InputError(f"{where} has several classes called {name}: give each a name of its own")


def class_notes(classes: Iterable[str]) -> list[str]:
    """Sentences about classes that may not be meant: alike in all but their spelling, several names, no value."""
    alike, notes = defaultdict(list), []
    classes = list(classes)
    for name in classes:
        alike[_meaning(name)].append(name)
    for group in alike.values():
        if len(group) > 1:
            shown = map(_shown, group)
            notes.append(f"the labels {' and '.join(shown)} are {len(group)} classes")
    known = set(classes)
    for name in classes:
        parts = [part.strip() for part in re.split(r"[|;,]", name)]
        if len(parts) > 1 and known.issuperset(parts):
            notes.append(f"the label {name} is a class of its own, though {' and '.join(parts)} are classes")
        elif len(parts) > 1 and re.search("[|]", name):
            notes.append(f"the label {name} is a class of its own: if it is several labels, give one for each image")
        if re.sub(r"[\s_-]+", " ", name.lower()) in _DOUBTFUL:
            notes.append(f"the label {name} is a class: if it means that there is no label, leave these images out")
    if len(notes) > 3:
        notes[3:] = [f"{counted(len(notes) - 3, 'more label looks', 'more labels look')} like these"]
    return notes
