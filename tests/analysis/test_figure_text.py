"""Names of any kind in figures: shown as they are, never as mathematics, and without a warning."""

import warnings

import numpy as np
import pytest
from matplotlib import cbook
from matplotlib.figure import Figure

from fastconv.analysis.attribution.drawing import Column, prediction_text
from fastconv.analysis.figures import Tile, draw_tiles, figure_text, read_png
from fastconv.analysis.run_figures import draw_confusion, draw_schedule

NAMES = (
    "$a$", "$\\frac{$", "cost $5 to $9", "\\$x$", "_hidden", "x_1^{2}", "a\\b", "<b>&amp;", 'q"\'', "a\nb\tc",
    "x" * 255, "\u200fabc\u202e", "caf\udce9", "=1+1", "%s {} {0}",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_and_on_one_line(name):
    shown = figure_text(name, 40)
    assert not cbook.is_math_text(shown)
    assert "\n" not in shown
    assert len(shown.replace("\\$", "$")) <= 41
    shown.encode()
    axes = Figure().subplots()
    axes.plot([0], [0], label=shown)
    assert axes.get_legend_handles_labels()[1] == [shown]


def test_a_plain_name_stays():
    assert figure_text("airplane") == "airplane"
    assert figure_text("a" * 30, 20) == "a" * 19 + "…"
    assert figure_text("2 $ a piece, 3 $ for two") == "2 \\$ a piece, 3 \\$ for two"


def test_figures_of_such_names(tmp_path):
    counts = np.eye(len(NAMES), dtype=np.int64) + 1
    image = np.zeros((8, 8, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(counts, NAMES, "$title$ of _^\n", tmp_path / "few.png")
        draw_confusion(np.tile(counts, (2, 2)), NAMES * 2, "$x", tmp_path / "many.png")
        tiles = [[Tile(image, f"{name}\n{prediction_text(NAMES, at, 0.5, 0)}") for at, name in enumerate(NAMES)]]
        draw_tiles(tiles, "$" * 301, tmp_path / "tiles.png", inches=0.3)
        draw_schedule({"train/epoch": np.arange(2.0), "schedule/lr": np.arange(2.0)}, "$a$, _b", tmp_path / "s.png")
    assert all(read_png(tmp_path / f"{name}.png").min() < 255 for name in ("few", "many", "tiles", "s"))


def test_a_doubt_stands_on_a_line_below_the_title_whatever_that_holds():
    none = np.zeros(0)
    assert Column("a\nb", none, none, none, doubt="not better").heading.split("\n") == ["a\\nb", "not better"]
    assert Column("Grad-CAM", none, none, none).heading == "Grad-CAM"


def test_dollars_are_drawn_as_they_are(tmp_path):
    """The title of a picture looks like the same text where Matplotlib reads no mathematics."""
    drawn = []
    for text, math in ((figure_text("$a_1$ $b$"), True), ("$a_1$ $b$", False)):
        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, text, parse_math=math)
        figure.savefig(tmp_path / "text.png")
        drawn.append(read_png(tmp_path / "text.png"))
    assert np.array_equal(*drawn)
