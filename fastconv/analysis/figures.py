"""Drawing primitives: grids of image tiles, and figures as PNG files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fastconv.analysis.fonts import fit_fonts
from fastconv.system.files import write_atomically
from fastconv.system.names import DIRECTIONS, printable

DPI = 110


@dataclass(frozen=True)
class ColorScale:
    """Legend of a figure's colours: matplotlib's name of the map, tick text by position in [0, 1], and a label."""

    name: str
    ticks: dict[float, str]
    label: str


@dataclass(frozen=True)
class Tile:
    """An image uint8 [H, W, 1 or 3] with the text above it and one across it."""

    image: np.ndarray
    text: str = ""
    across: str = ""


def figure_text(text: object, most: int = 100) -> str:
    """A text as a figure can show it, on one line and shortened to `most` characters.

    Class, file and run names may hold anything. Matplotlib would take what stands between dollars for mathematics,
    leave a label that begins with _ out of a legend, and warn about characters that nobody sees.
    """
    shown = printable(DIRECTIONS.sub("", str(text)))
    shown = shown if len(shown) <= most else f"{shown[: most - 1]}…"
    shown = shown.replace("$", "\\$")
    return f" {shown}" if shown.startswith("_") else shown


def draw_tiles(
    rows: Sequence[Sequence[Tile | None]], title: str, path: Path, inches: float = 1.4, scale: ColorScale | None = None
) -> None:
    """Draw rows of square tiles, `inches` wide; None leaves a place empty. A bar below explains the `scale`.

    The text of a tile may have several lines; each is shortened to its width.

    All lie in one pair of axes: laying out a pair for each tile would take seconds.
    """
    gap, line = 0.07, 0.115 * 1.4 / inches  # in tiles
    lines = [max(tile.text.count("\n") + 1 if tile and tile.text else 0 for tile in row) for row in rows]
    width = max(map(len, rows)) * (1 + gap)
    letters = round(20 * inches)  # of 7 points beside each other in a tile
    height = 2.5 * line + sum(1 + gap + line * count for count in lines) + (0.55 if scale else 0)
    figure = Figure(figsize=(inches * width, inches * height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(
        width / 2, 1.2 * line, figure_text(title, round(10 * inches * width)), ha="center", va="center", fontsize=11
    )
    top = 2.5 * line
    for row, count in zip(rows, lines, strict=True):
        top += line * count
        for place, tile in enumerate(row):
            if tile is None:
                continue
            left = place * (1 + gap) + gap / 2
            shown = tile.image if tile.image.shape[2] == 3 else tile.image[..., 0]
            extent = (left, left + 1, top + 1, top)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", interpolation="nearest")
            text = "\n".join(figure_text(part, letters) for part in tile.text.split("\n"))
            axes.text(left + 0.5, top - 0.02, text, ha="center", va="bottom", fontsize=7)
            if tile.across:
                box = {"facecolor": "black", "edgecolor": "none"}
                axes.text(left + 0.5, top + 0.5, tile.across, ha="center", va="center", fontsize=8, color="w", bbox=box)
        top += 1 + gap
    axes.set(xlim=(0, width), ylim=(height, 0))
    if scale:
        below = figure.add_axes((0.25, 0.37 / height, 0.5, 0.1 / height))
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), scale.name), cax=below, orientation="horizontal")
        bar.set_ticks(list(scale.ticks), labels=list(scale.ticks.values()), fontsize=7)
        bar.set_label(scale.label, fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises InputError if it cannot be written."""
    FigureCanvasAgg(figure)
    fit_fonts(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    write_atomically(path, content.getbuffer())


def read_png(path: Path) -> np.ndarray:
    """The pixels of a PNG, uint8 [H, W, C]."""
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).astype(np.uint8)
