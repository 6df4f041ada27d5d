"""Heatmaps as pictures: one colour map and one scale for all that are compared."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fastconv.analysis.attribution.samples import UNKNOWN, Samples
from fastconv.analysis.figures import ColorScale, Tile, draw_tiles, save
from fastconv.analysis.html import data_url

COLOURS = "inferno"
# Where a heatmap's colour is full: at so many times the evidence that an even map would have there.
FULL = 4.0
SCALE = ColorScale(
    COLOURS,
    {(level / FULL) ** 0.5: f"{level:g}x" for level in (0, 0.5, 1, 2, 4)},
    "evidence for the class, times an even spread",
)
# Pixels of the side of a picture in the gallery, and the quality of WebP there: a page of 100 images and two sides
# takes 1 to 2 MB.
TILE, QUALITY = 48, 40


@dataclass(frozen=True)
class Column:
    """Heatmaps of one kind: what they are called, and of each image the map, the answer and how sure it is.

    `maps` float32 [N, H, W], `said` int64 [N], `sure` float [N] in [0, 1].
    """

    title: str
    maps: np.ndarray
    said: np.ndarray
    sure: np.ndarray


def strength(attribution: np.ndarray) -> np.ndarray:
    """A map's evidence for the class, float [H, W]: 1 where it has as much as an even map would have.

    Negative attributions, evidence against the class, are left out. Zeros for a map that has no evidence.
    """
    positive = np.clip(attribution, 0, None)
    mean = positive.mean()
    return positive / mean if mean > 0 else positive


def overlay(image: np.ndarray, attribution: np.ndarray) -> np.ndarray:
    """A heatmap over the greys of its image uint8 [H, W, C]; uint8 [H, W, 3]."""
    heat = np.clip(strength(attribution) / FULL, 0, 1) ** 0.5
    grey = np.repeat(image.mean(axis=2, keepdims=True) / 255, 3, axis=2) * 0.75
    colour = mpl.colormaps[COLOURS](heat)[..., :3]
    cover = 0.9 * heat[..., None]
    return np.round(255 * (grey * (1 - cover) + colour * cover)).astype(np.uint8)


def answer(classes: tuple[str, ...], said: int, sure: float, label: int) -> str:
    """A network's answer in words, with a cross where it is wrong."""
    wrong = " ✗" if label not in (said, UNKNOWN) else ""
    return f"{classes[said]} {100 * sure:.0f} %{wrong}"


def draw_effect(
    samples: Samples, rows: np.ndarray, classes: tuple[str, ...], columns: list[Column], title: str, path: Path
) -> None:
    """Images beside their heatmaps, one row for each image in two halves: the article's figure."""
    halves = 2 if len(rows) > 4 else 1
    lines = -(-len(rows) // halves)
    tiles: list[list[Tile | None]] = [[] for _ in range(lines)]
    for place, row in enumerate(rows):
        label = int(samples.labels[row])
        name = classes[label] if label != UNKNOWN else samples.names[row]
        tiles[place % lines].append(Tile(samples.images[row], name))
        for column in columns:
            text = answer(classes, column.said[row], column.sure[row], label)
            tiles[place % lines].append(heat_tile(samples.images[row], column.maps[row], f"{column.title}\n{text}"))
    draw_tiles(tiles, title, path, inches=1.7, scale=SCALE)


def draw_methods(
    samples: Samples, rows: np.ndarray, classes: tuple[str, ...], columns: list[Column], title: str, path: Path
) -> None:
    """A few images under every method; the network's answer stands above the image."""
    tiles = []
    for line, row in enumerate(rows):
        label = int(samples.labels[row])
        name = classes[label] if label != UNKNOWN else samples.names[row]
        said = answer(classes, columns[0].said[row], columns[0].sure[row], label)
        heats = [heat_tile(samples.images[row], column.maps[row], "" if line else column.title) for column in columns]
        tiles.append([Tile(samples.images[row], f"{name}\n{said}"), *heats])
    draw_tiles(tiles, title, path, scale=SCALE)


def heat_tile(image: np.ndarray, attribution: np.ndarray, text: str) -> Tile:
    """A heatmap over its image; one without evidence for the class says so, so that nobody takes it for a map."""
    return Tile(overlay(image, attribution), text, "" if (attribution > 0).any() else "no evidence")


def draw_measures(panels: list[tuple[str, list]], methods: list[str], path: Path) -> None:
    """A panel for each measure: a dot with its 95 % interval for each method.

    `panels` hold (title, [(side, a summary of mean and half interval for each method, whether it is a control)]).
    """
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.5, (0.28 * len(methods) + 1.1) * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    sides = list(dict.fromkeys(side for _, parts in panels for side, _, _ in parts))
    places = np.arange(len(methods))[::-1]
    for axes, (title, parts) in zip(grid.flat, panels, strict=False):
        for side, summaries, is_control in parts:
            number = sides.index(side)
            shift = 0.12 * (len(sides) - 1) * (1 - 2 * number)
            axes.errorbar(
                [each.mean for each in summaries],
                places + shift,
                xerr=[np.nan_to_num(each.half) for each in summaries],
                fmt="x" if is_control else "os"[number % 2],
                color="0.55" if is_control else f"C{number}",
                markersize=4,
                label=f"random heatmaps, {side}" if is_control else side,
            )
        axes.set_title(title, fontsize=9)
        axes.set_yticks(places, methods, fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(alpha=0.3)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    save(figure, path)


def strip(image: np.ndarray, maps: list[np.ndarray]) -> str:
    """An image and its heatmaps side by side, as the address of a WebP picture that a page can hold."""
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    tiles = [colour, *(overlay(image, each) for each in maps)]
    scaled = [Image.fromarray(each).resize((TILE, TILE), Image.Resampling.LANCZOS) for each in tiles]
    whole = Image.new("RGB", ((TILE + 4) * len(scaled) - 4, TILE), "white")
    for place, each in enumerate(scaled):
        whole.paste(each, (place * (TILE + 4), 0))
    return data_url(whole, QUALITY)
