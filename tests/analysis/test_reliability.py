"""The reliability diagram shows all of its legend."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fastconv.analysis import figures
from fastconv.analysis.evaluation.metrics import Evaluation
from fastconv.analysis.evaluation.report import draw_reliability


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_the_legend_lies_in_the_figure(monkeypatch, tmp_path, temperature):
    saved = []
    monkeypatch.setattr(figures, "save", lambda drawing, path: saved.append(drawing))
    sure = np.linspace(0.5, 0.99, 40)
    evaluation = Evaluation(np.stack([sure, 1 - sure], 1), np.arange(40) % 2, ("a", "b"), temperature)
    draw_reliability(evaluation, tmp_path / "reliability.png")
    FigureCanvasAgg(saved[0]).draw()
    (legend,) = saved[0].legends
    box, whole = legend.get_window_extent(), saved[0].bbox
    assert len(legend.texts) == (2 if temperature is None else 3)
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1
