"""Sentences that say a number of things."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `counted(1, "image")` is "1 image", `counted(1438, "image")` is "1,438 images".

    Args:
        one: the words after a 1, such as "class" or "image is".
        many: the words after another number; None for those of `one` with the ending of a plural.
    """
    plural = f"{one}es" if one.endswith("s") else f"{one}s"
    return f"{count:,} {one if count == 1 else many or plural}"
