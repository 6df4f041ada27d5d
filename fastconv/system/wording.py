"""Numbers with their nouns, and names, in sentences."""

from collections.abc import Iterable, Sequence


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `counted(1, "image")` is "1 image", `counted(1438, "image")` is "1,438 images".

    Args:
        one: the words after a 1, such as "class" or "image is".
        many: the words after another number; None for those of `one` with the ending of a plural.
    """
    plural = f"{one}es" if one.endswith("s") else f"{one}s"
    return f"{count:,} {one if count == 1 else many or plural}"


def agreeing(count: int, one: str, many: str) -> str:
    """The words after a number out of another: `one` after 1, as in "1 of 11 images is a copy", else `many`."""
    return one if count == 1 else many


def measured(value: float, one: str) -> str:
    """A number that need not be whole with its noun: `measured(1, "epoch")` is "1 epoch", of 2.5 "2.5 epochs"."""
    return f"{value:g} {one if value == 1 else f'{one}s'}"


def first_names(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """At most the first `most` names, and the number of the others: `first_names("abc", 2)` is "a, b and 1 more"."""
    return separator.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, all of them up to four: `listed("abc")` is "a, b and c", of "abcde" "a, b, c and 2 more"."""
    names = list(names)
    if len(names) > 4:
        return first_names(names, 3)
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
