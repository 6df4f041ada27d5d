"""Names that become parts of a path, and text of unknown origin made fit to be shown."""

import re
import unicodedata

from fastconv.system.errors import InputError

# Bytes of a name in UTF-8: file systems allow 255, of which folders add up to 40 (a fingerprint, a process).
MOST_BYTES = 200
# Folders that fastconv itself makes where a name would stand.
RESERVED = ("sweeps",)
# Marks that change the direction of the text after them, so that a name would not read as it is.
DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Characters that end a line or steer a terminal.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
SURROGATES = re.compile("[\ud800-\udfff]")


def check_name(key: str, name: str) -> None:
    """Raise InputError for a name that cannot be a part of a path.

    A name has 1 to 200 bytes of UTF-8, no separators, no control characters or marks of direction, no blanks at its
    ends, and no dot at its beginning, so that it is never `.`, `..` or hidden.
    """
    text = printable(name)
    reason = None
    if not name.strip():
        reason = "give a name"
    elif SURROGATES.search(name):
        reason = "it has bytes that are not UTF-8"
    elif "/" in name or "\\" in name:
        reason = "it becomes the name of a folder, so it cannot have / or \\"
    elif CONTROLS.search(name) or DIRECTIONS.search(name):
        reason = "it has characters that cannot be seen"
    elif name.startswith("."):
        reason = "it becomes the name of a folder, so it cannot begin with a dot"
    elif name != name.strip():
        reason = "it cannot begin or end with blanks"
    elif name in RESERVED:
        reason = "fastconv has a folder of that name"
    elif len(name.encode()) > MOST_BYTES:
        reason, text = f"give at most {MOST_BYTES} bytes", f"{text[:40]}..."
    if reason:
        raise InputError(f"{key}={text} is not possible: {reason}. Choose another name")


def file_name(name: str) -> str:
    """A name of unknown origin, such as that of somebody else's data set, as a safe part of a file's name."""
    kept = re.sub(r"[^\w. +-]", "_", nfc(printable(name))).strip(" .")
    while len(kept.encode()) > MOST_BYTES:
        kept = kept[:-1]
    return kept or "_"


def nfc(text: str) -> str:
    """A text in Unicode's composed form, equal for the same text in any form: macOS and some archives take accents
    apart from their letters."""
    return unicodedata.normalize("NFC", text)


def valid_unicode(text: str) -> str:
    """A text that UTF-8 can encode: each byte of a file's name that is not UTF-8 becomes `\\xe9` or the like."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, which stands for no byte
        return SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """A text on one line, as a terminal can show it: control characters and marks of direction become escapes."""
    if text.isascii() and text.isprintable():  # nearly all are, and comparing thousands of runs asks for a million
        return text
    text = CONTROLS.sub(lambda found: repr(found[0])[1:-1], valid_unicode(text))
    return DIRECTIONS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def csv_cell(value: object) -> object:
    """A cell of a CSV file: valid UTF-8, and no formula for a spreadsheet, which an apostrophe before it prevents.

    A text that begins with =, +, -, @ or a tab would be one, unless it is a number.
    """
    if not isinstance(value, str):
        return value
    text = valid_unicode(value)
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
