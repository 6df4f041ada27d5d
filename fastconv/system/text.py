"""Text from elsewhere, such as names of classes and files, in a form that is safe to show."""

import re

# Control characters (a terminal obeys some of them), line separators, characters that reverse the order of a line, and
# halves of surrogate pairs, which cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# The first characters of a formula (OWASP, "CSV injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """The text on one line, with each character that a terminal would obey as its escape, such as \\x1b."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def inert(cell: object) -> object:
    """A cell of a CSV. A ' goes before a text that a spreadsheet would take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
