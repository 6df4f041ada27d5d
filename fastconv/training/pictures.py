"""The pictures of a run: augmented images, the confusion matrix, and heatmaps of where the network looks.

They are files in the run's folder, and TensorBoard shows them too if it is one of the loggers. A picture that fails is
left out with a warning, so that it cannot spoil a run that is trained and scored.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastconv.analysis import run_figures
from fastconv.data.stream.spec import Stream
from fastconv.runs.results import Results
from fastconv.training.module import ImageClassifier
from fastconv.training.plan import Run
from fastconv.training.tensorboard import Dashboard, optional

# Largest number of test images with a heatmap, one of each class.
HEATMAPS = 10


def draw_figures(
    module: ImageClassifier, stream: Stream, results: Results, run: Run, folder: Path, dashboard: Dashboard | None
) -> None:
    """Draw all figures of a run that is trained and scored: its images, its network and its curves."""
    show_augmented(stream, run, folder, dashboard)
    show_network(module, results, run, folder, dashboard)
    with optional("curves"):
        run_figures.draw_run(folder, results, f"{results.dataset}, {results.model}")


def show_augmented(stream: Stream, run: Run, folder: Path, dashboard: Dashboard | None) -> None:
    """Draw `augmented.png`, the first images of the training stream."""
    path = folder / "augmented.png"
    with optional("augmented"):
        run_figures.draw_augmented(*stream.rows(0, run_figures.GRID_IMAGES), run.spec, path)
        if dashboard:
            dashboard.show_picture(path, step=0)


def show_network(
    module: ImageClassifier, results: Results, run: Run, folder: Path, dashboard: Dashboard | None
) -> None:
    """Draw `confusion.png` and `heatmaps.png`, and show the network's graph, after scoring."""
    steps = results.steps or 0
    path = folder / "confusion.png"
    with optional("confusion"):
        title = f"{results.dataset}, {results.model}: {results.accuracy:.2%} of the test images are right"
        run_figures.draw_confusion(module.confusion.numpy(), run.spec.classes, title, path)
        if dashboard:
            dashboard.show_picture(path, steps)
    path = folder / "heatmaps.png"
    with optional("heatmaps"):
        draw_heatmaps(module.model, run, path, module.temperature)
        if dashboard:
            dashboard.show_picture(path, steps)
    if dashboard:
        dashboard.show_graph(module.model, run.spec.shape)


def draw_heatmaps(network: nn.Module, run: Run, path: Path, temperature: float | None) -> None:
    """Draw Grad-CAM heatmaps beside their images, one test image per class, for the first classes if there are many.

    Confidences are those at the temperature, as `predict` gives them.

    Raises InputError for a network without a layer whose maps have more than one position.
    """
    # Captum is imported here, after training, so that it does not delay the start of a run.
    from fastconv.analysis.attribution.attribution import Attributor, attribute
    from fastconv.analysis.attribution.drawing import Column, draw_effect
    from fastconv.analysis.attribution.network import PixelNetwork, Pixels, as_pixels, predict
    from fastconv.analysis.attribution.samples import choose
    from fastconv.config.commands import Method

    pixels = PixelNetwork(network, run.spec.mean, run.spec.std).cpu()
    method = Method("LayerGradCam", "Grad-CAM", layer="last")
    attributor = Attributor(method, pixels, Pixels.of(run.train.images), run.spec.shape)
    samples = choose(run.test, lambda images: predict(pixels, images), 1, errors=0, correct=0, candidates=0, seed=0)
    rows = np.arange(min(HEATMAPS, len(samples)))
    inputs = as_pixels(samples.images[rows])
    probabilities = predict(pixels, inputs, temperature=temperature)
    predicted = probabilities.argmax(axis=1)
    maps = attribute(attributor, inputs, torch.from_numpy(predicted))[0].sum(1).numpy()
    column = Column("Grad-CAM", maps, predicted, probabilities.max(axis=1))
    title = f"{run.spec.dataset}: where the network looks"
    draw_effect(samples, rows, run.spec.classes, [column], title, path)
