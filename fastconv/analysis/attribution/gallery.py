"""The gallery of an explanation: every image with its predictions and its heatmaps by every method."""

from dataclasses import dataclass

from fastconv.analysis.attribution.drawing import prediction_text, strip
from fastconv.analysis.attribution.experiment import Explanation
from fastconv.analysis.attribution.samples import KINDS, UNKNOWN


@dataclass(frozen=True)
class Strip:
    """A picture of an image and its heatmaps by every method, as a data URL with a description."""

    source: str
    alt: str


@dataclass(frozen=True)
class GalleryImage:
    """An image of a gallery: its class or file, its name, the predictions, and a strip for each group of runs."""

    name: str
    file: str
    predictions: str
    strips: list[Strip]


@dataclass(frozen=True)
class Gallery:
    """The images of one kind."""

    heading: str
    images: list[GalleryImage]


def galleries(explanation: Explanation) -> list[Gallery]:
    """Return every image with its heatmaps by every method, for the first run of each group."""
    found = []
    for kind, heading in KINDS.items():
        rows = [row for row, each in enumerate(explanation.samples.kinds) if each == kind]
        chosen_by = f" {explanation.names[0]}" if explanation.second and kind in ("error", "correct") else ""
        if rows:
            found.append(Gallery(heading + chosen_by, [gallery_image(explanation, row) for row in rows]))
    return found


def gallery_image(explanation: Explanation, row: int) -> GalleryImage:
    """Return an image with its predictions and heatmaps."""
    samples, classes, titles = explanation.samples, explanation.classes, explanation.titles
    label = int(samples.labels[row])
    name = classes[label] if label != UNKNOWN else samples.names[row]
    lines, strips = [], []
    for group, runs in explanation.groups:
        run = runs[0]
        predicted = int(run.probabilities[row].argmax())
        text = prediction_text(classes, predicted, float(run.probabilities[row, predicted]), label)
        without = [titles[method] for method, maps in run.evidence.items() if not (maps[row] > 0).any()]
        text += f", no evidence by {', '.join(without)}" if without else ""
        lines.append(f"{group}: {text}" if explanation.second else f"predicted {text}")
        source = strip(samples.images[row], [maps[row] for maps in run.evidence.values()])
        strips.append(Strip(source, f"{name}, {lines[-1]}: the image and its heatmaps by {', '.join(titles.values())}"))
    return GalleryImage(name, samples.names[row], "; ".join(lines), strips)
