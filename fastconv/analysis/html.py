"""A page: one HTML file that needs nothing else, on a screen, on a phone or on paper."""

import base64
import csv
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fastconv.system.files import unwritable, write_atomically

STYLE = Path(__file__).with_name("templates") / "page.css"
SCRIPT = Path(__file__).with_name("templates") / "page.js"
# Of WebP, for figures.
QUALITY = 50


@dataclass(frozen=True)
class Figure:
    """A figure of a report: its file, what it shows for who cannot see it, its caption, and its place on the page.

    The place is `answer`, `measures` or `images`.
    """

    path: Path
    alt: str
    caption: str
    place: str


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text()}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT.read_text()}</script></body></html>\n"
    )


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page to a file, whole or not at all. Raises InputError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, document(title, parts).encode())
    except OSError as error:
        raise unwritable(path, error) from error


def lead(sentences: Iterable[str]) -> str:
    """What a page found, above everything else."""
    return '<div class="answer">' + "".join(f"<p>{escape(line)}</p>" for line in sentences) + "</div>"


def figure_of(figure: Figure) -> str:
    """A figure with its caption, inside the page."""
    source = data_url(Image.open(figure.path))
    image = f'<div class="wide"><img class="drawn" src="{source}" alt="{escape(figure.alt)}"></div>'
    return f"<figure>{image}<figcaption>{escape(figure.caption)}</figcaption></figure>"


def table(header: list[str], rows: list[list[str]], sortable: bool = False) -> str:
    """A table of HTML cells that may be wider than the page; a sortable one sorts where its header is clicked."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def data_url(image: Image.Image, quality: int = QUALITY) -> str:
    """The address of a picture that lies within the page, as WebP."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "WEBP", quality=quality, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows, all with the same keys, as a table with a header."""
    with path.open("w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
