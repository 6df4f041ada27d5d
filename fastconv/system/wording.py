"""Numbers with their nouns, in sentences."""


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
