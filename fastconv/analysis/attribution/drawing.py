"""Heatmaps as pictures with the same colour map, all on one scale or each on its own."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fastconv.analysis.attribution.samples import UNKNOWN, Samples
from fastconv.analysis.comparison.statistics import Summary
from fastconv.analysis.figures import ColorScale, Tile, draw_tiles, figure_text, save
from fastconv.analysis.html import data_url
from fastconv.system.names import printable

COLOR_MAP = "inferno"
# A heatmap's colour is full at this multiple of the evidence that an even map would have there.
FULL = 4.0
SCALE = ColorScale(
    COLOR_MAP,
    {(level / FULL) ** 0.5: f"{level:g}x" for level in (0, 0.5, 1, 2, 4)},
    "evidence for the class, times an even spread",
)
OWN_SCALE = ColorScale(
    COLOR_MAP,
    {share: f"{share:g}" for share in (0, 0.5, 1)},
    "evidence for the class, as a share of the largest in the same heatmap",
)
# Pixels of the side of a picture in the gallery, and the quality of WebP there: a page of 100 images of two groups of
# runs takes 1 to 2 MB.
TILE, QUALITY = 48, 40
# Characters of a class beside a confidence.
NAME = 20


@dataclass(frozen=True)
class Column:
    """Heatmaps of one kind, with the predictions of the network.

    `maps` float32 [N, H, W], `predictions` int64 [N], `confidence` float [N] in [0, 1]. `doubt` says below the title
    why the maps may mean nothing.
    """

    title: str
    maps: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray
    doubt: str = ""

    @property
    def heading(self) -> str:
        """The title, which may hold anything, on one line, and the doubt on a second."""
        return "\n".join(filter(None, (printable(self.title), self.doubt)))


@dataclass(frozen=True)
class Series:
    """The dots of a panel for a group of runs: a summary for each method, or of the random heatmaps as a control."""

    group: str
    summaries: list[Summary]
    is_control: bool


@dataclass(frozen=True)
class Panel:
    """A panel of the figure of measures."""

    title: str
    series: list[Series]


def strength(attribution: np.ndarray) -> np.ndarray:
    """Return a map's evidence for the class, float [H, W]: 1 where it has as much as an even map would have.

    Negative attributions, evidence against the class, are left out. Zeros for a map that has no evidence.
    """
    positive: np.ndarray = np.clip(attribution, 0, None)
    mean = positive.mean()
    return positive / mean if mean > 0 else positive


def overlay(image: np.ndarray, attribution: np.ndarray, *, own_scale: bool = False) -> np.ndarray:
    """Lay a heatmap over the grey values of its image uint8 [H, W, C]; returns uint8 [H, W, 3].

    With `own_scale` a colour is full at the map's own largest value, as most published heatmaps have it.
    """
    evidence = strength(attribution)
    heat = evidence / max(evidence.max(), 1e-12) if own_scale else np.clip(evidence / FULL, 0, 1) ** 0.5
    grey = np.repeat(image.mean(axis=2, keepdims=True) / 255, 3, axis=2) * 0.75
    colour = mpl.colormaps[COLOR_MAP](heat)[..., :3]
    cover = 0.9 * heat[..., None]
    blended: np.ndarray = np.round(255 * (grey * (1 - cover) + colour * cover)).astype(np.uint8)
    return blended


def prediction_text(classes: tuple[str, ...], predicted: int, confidence: float, label: int) -> str:
    """Format a prediction and its confidence, with a cross where it is wrong."""
    wrong = " ✗" if label not in (predicted, UNKNOWN) else ""
    name = printable(classes[predicted])
    name = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
    return f"{name} ({100 * confidence:.0f} %){wrong}"


def draw_effect(
    samples: Samples,
    rows: np.ndarray,
    classes: tuple[str, ...],
    columns: list[Column],
    title: str,
    path: Path,
    *,
    own_scale: bool = False,
) -> None:
    """Draw images beside their heatmaps, one row for each image, in two halves: the article's figure.

    All heatmaps have one scale, or with `own_scale` each its own.
    """
    halves = 2 if len(rows) > 4 else 1
    lines = -(-len(rows) // halves)
    tiles: list[list[Tile | None]] = [[] for _ in range(lines)]
    for place, row in enumerate(rows):
        label = int(samples.labels[row])
        name = printable(classes[label] if label != UNKNOWN else samples.names[row])
        tiles[place % lines].append(Tile(samples.images[row], name))
        for column in columns:
            text = prediction_text(classes, column.predictions[row], column.confidence[row], label)
            text = f"{column.heading}\n{text}"
            tiles[place % lines].append(heat_tile(samples.images[row], column.maps[row], text, own_scale=own_scale))
    draw_tiles(tiles, title, path, inches=1.7, scale=OWN_SCALE if own_scale else SCALE)


def draw_methods(
    samples: Samples, rows: np.ndarray, classes: tuple[str, ...], columns: list[Column], title: str, path: Path
) -> None:
    """Draw a few images under every method, with the prediction above each image."""
    tiles: list[list[Tile]] = []
    for line, row in enumerate(rows):
        label = int(samples.labels[row])
        name = printable(classes[label] if label != UNKNOWN else samples.names[row])
        text = prediction_text(classes, columns[0].predictions[row], columns[0].confidence[row], label)
        heats = [heat_tile(samples.images[row], column.maps[row], "" if line else column.heading) for column in columns]
        tiles.append([Tile(samples.images[row], f"{name}\n{text}"), *heats])
    draw_tiles(tiles, title, path, scale=SCALE)


def heat_tile(image: np.ndarray, attribution: np.ndarray, text: str, *, own_scale: bool = False) -> Tile:
    """Return a heatmap over its image, marked where it has no evidence for the class and its colours mean nothing."""
    return Tile(
        overlay(image, attribution, own_scale=own_scale), text, "" if (attribution > 0).any() else "no evidence"
    )


def draw_measures(panels: list[Panel], methods: list[str], path: Path) -> None:
    """Draw a panel for each measure: a dot with its 95 % interval for each method."""
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.5, (0.28 * len(methods) + 1.1) * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    groups = list(dict.fromkeys(series.group for panel in panels for series in panel.series))
    places = np.arange(len(methods))[::-1]
    for axes, panel in zip(grid.flat, panels, strict=False):
        for series in panel.series:
            number = groups.index(series.group)
            shift = 0.12 * (len(groups) - 1) * (1 - 2 * number)
            axes.errorbar(
                [each.mean for each in series.summaries],
                places + shift,
                xerr=[np.nan_to_num(each.half) for each in series.summaries],
                fmt="x" if series.is_control else "os"[number % 2],
                color="0.55" if series.is_control else f"C{number}",
                markersize=4,
                label=figure_text(f"random heatmaps, {series.group}" if series.is_control else series.group, 60),
            )
        axes.set_title(figure_text(panel.title, 40), fontsize=9)
        axes.set_yticks(places, [figure_text(method, 30) for method in methods], fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(alpha=0.3)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    save(figure, path)


def strip(image: np.ndarray, maps: list[np.ndarray]) -> str:
    """Put an image and its heatmaps side by side, as a data URL for a page."""
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    tiles = [colour, *(overlay(image, each) for each in maps)]
    scaled = [Image.fromarray(each).resize((TILE, TILE), Image.Resampling.LANCZOS) for each in tiles]
    whole = Image.new("RGB", ((TILE + 4) * len(scaled) - 4, TILE), "white")
    for place, each in enumerate(scaled):
        whole.paste(each, (place * (TILE + 4), 0))
    return data_url(whole, QUALITY)
