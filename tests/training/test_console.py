"""The tables that a run prints."""

import shlex
from pathlib import Path

import pytest
from rich.console import Console

from fastconv.runs.results import Results
from fastconv.training.console import results_table


@pytest.mark.parametrize("name", ["a-long-name" * 9, "two words/" + "x" * 60])
def test_paths_are_shown_whole_in_a_narrow_terminal(name):
    folder = Path("/somewhere", name)
    results = Results(
        dataset="digits",
        model="davidnet",
        experiment=None,
        seed=0,
        stream_seed=0,
        accuracy=0.9,
        accuracy_tta=0.9,
        balanced_accuracy=0.9,
        macro_f1=0.9,
        loss=0.1,
        epochs=1.0,
        steps=10,
        seconds_counted=1.0,
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(results_table(results, folder))
    cells = [line.strip("│").split("│") for line in capture.get().splitlines() if line.startswith("│")]
    rows: list[list[str]] = []
    for key, value in cells:  # a row goes on below an empty key
        rows = [*rows, [key.strip(), ""]] if key.strip() else rows
        rows[-1][1] += value.replace(" ", "")
    shown = dict(map(tuple, rows))
    assert shown["run"] == str(folder).replace(" ", "")
    assert shown["dashboard"] == f"tensorboard --logdir {shlex.quote(str(folder))}".replace(" ", "")
