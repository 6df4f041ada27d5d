"""Figures show names in any script without boxes, and say nothing of fonts."""

import logging
import warnings

import pytest
from matplotlib.figure import Figure

from fastconv.analysis import fonts
from fastconv.analysis.figures import save

NAMES = ["cat", "猫", "قطة", "बिल्ली", "🦊", "고양이", "ねこ", "кошка", "γάτα"]


def test_matplotlib_says_nothing_of_weights():
    assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("installed", [True, False], ids=["fonts of the system", "no other font"])
def test_names_in_any_script_are_drawn(tmp_path, monkeypatch, installed):
    if not installed:
        monkeypatch.setattr(fonts, "_families", lambda: [])
    figure = Figure()
    axes = figure.add_subplot(title=" ".join(NAMES))
    axes.set_xticks(range(len(NAMES)), labels=NAMES)
    axes.text(0, 0, NAMES[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path / "a.png")
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert (shown[0], shown[7], shown[8]) == ("cat", "кошка", "γάτα")
    assert len(set(shown)) == len(NAMES)
    assert all(name.strip() for name in shown)
    if not installed:
        assert shown[3] == "bailalaii"
        assert shown[4] == ":fox face:"
