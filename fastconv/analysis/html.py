"""Pages: self-contained HTML files, rendered from the templates beside this module, for screen, phone and paper."""

import base64
import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from fastconv.data.sources.formats import open_image
from fastconv.system.errors import InputError
from fastconv.system.files import read_file, write_atomically
from fastconv.system.names import csv_cell, valid_unicode

# Quality of the WebP pictures inside a page.
QUALITY = 50
# Figures up to these numbers of pixels in width may become narrower than the others, whose letters would be too small.
SMALL, MEDIUM = 620, 900
# Characters of a cell that stay on one line.
LONG = 24
# Pixels of the longest side of a figure from a run's folder. Ours have a few thousand.
MOST_SIDE = 8000
# Every value is escaped: class names, file names and errors come from elsewhere.
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# The script of every page, which nothing is filled into, and its digest as a page's policy names it.
SCRIPT = Markup(Path(__file__).with_name("templates").joinpath("page.js").read_text(encoding="utf-8"))
SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()


@dataclass(frozen=True)
class Figure:
    """A figure of a page: its PNG file, a description for readers who cannot see it, its caption, and its section.

    `section` says where a page with several sections shows it: `findings`, `measures` or `images`.
    """

    path: Path
    alt: str
    caption: str
    section: str = "findings"

    @property
    def size(self) -> str:
        """`small`, `medium` or `large`: what page.css has a least width for. On a narrower screen a figure scrolls."""
        with Image.open(self.path, formats=["PNG"]) as image:
            return "small" if image.width <= SMALL else "medium" if image.width <= MEDIUM else "large"

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        with Image.open(self.path, formats=["PNG"]) as image:
            return data_url(image)


def stored_figure(path: Path, alt: str, caption: str) -> Figure | None:
    """A figure that a run left in its folder; None if there is none that can be shown."""
    try:
        size = open_image(read_file(path)).size
    except (OSError, InputError, ValueError, SyntaxError):
        return None
    return Figure(path, alt, caption) if max(size) <= MOST_SIDE else None


@dataclass(frozen=True)
class Cell:
    """A table cell with a tone: `good` or `bad` colours its text, an empty one does not."""

    text: str
    tone: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table of a page; the rows of a sortable one are sorted by the column whose header is clicked."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    sortable: bool = False

    def is_text(self, column: int) -> bool:
        """Whether a column behind the first one is aligned to the left: it has no number, or cells of several lines."""
        return self._text_columns[column]

    @cached_property
    def _text_columns(self) -> list[bool]:
        found = [False] * len(self.header)
        for column in range(1, len(self.header)):
            cells = [text for row in self.rows if (text := str(row[column]).strip(" -"))]
            has_numbers = any(re.match(r"[+±]? ?[\d.]", text) for text in cells)
            found[column] = any(map(is_long, cells)) or (bool(cells) and not has_numbers)
        return found

    def classes(self, cell: str | Cell, column: int) -> str:
        """The classes of a cell: `text` for one of a column of text, `words` for one of several lines."""
        return " ".join(["text"] * self.is_text(column) + ["words"] * is_long(str(cell)))


def is_long(text: str) -> bool:
    """Whether a cell may take several lines, and is then aligned to the left."""
    return " " in text and len(text) > LONG


def render(template: str, **values: object) -> str:
    """Render `templates/<template>` with values that are escaped.

    The page has a policy under which a browser runs its own script alone, and loads nothing.
    """
    return ENVIRONMENT.get_template(template).render(values, script=SCRIPT, script_digest=SCRIPT_DIGEST)


def write_page(path: Path, template: str, **values: object) -> None:
    """Render a template into a file, whole or not at all. Raises InputError if it cannot be written."""
    write_atomically(path, valid_unicode(render(template, **values)).encode())


def data_url(image: Image.Image, quality: int = QUALITY) -> str:
    """Return a picture as a data URL, encoded as WebP."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=quality, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, all with the same keys, as CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        if rows:
            writer = csv.writer(file)
            writer.writerow(map(csv_cell, rows[0]))
            writer.writerows(map(csv_cell, row.values()) for row in rows)
