"""A trained run in Python: predicts, and evaluates, explains and exports like the commands of these names."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastconv import evaluate, explain, export
from fastconv.analysis import predictor
from fastconv.analysis.checkpoint import load_run
from fastconv.config.arguments import prepare_arguments
from fastconv.config.overrides import COMPOSING_ERRORS, compose
from fastconv.config.quoting import literally, require_texts
from fastconv.config.typed_config import explain as explain_error
from fastconv.config.typed_config import typed
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.terminal import plain_console

if TYPE_CHECKING:
    from fastconv.analysis.evaluation.metrics import Evaluation


class Predictor(predictor.Predictor):
    """A trained network with its preprocessing, and the run that trained it.

    Args:
        run: a trained run, as read from its folder.
        accelerator: `auto`, `cpu` or `gpu`.
    """

    def evaluate(self, *overrides: str, tta: bool = False) -> "Evaluation":
        """Score the network on the run's test images, and write `report.html` and `evaluation.json` into its folder.

        Args:
            overrides: other settings of `python -m fastconv.evaluate`, such as `dataset.root=photos`.
            tta: use the run's test-time augmentation (its `tta`).

        Returns the predictions of the test images, with their metrics. Raises InputError if the images are gone or have
        changed.
        """
        config = self._config("evaluate", [f"tta={tta}".lower()], overrides, accelerator=True)
        evaluate.check(config)
        from fastconv.analysis.evaluation.report import evaluate_run

        return evaluate_run(config)[0]

    def explain(self, images: str | Path | Sequence[str | Path] | None = None, *overrides: str) -> Path:
        """Draw heatmaps of the pixels that predictions depend on, and measure how faithful the heatmaps are.

        Args:
            images: files to explain, at least one; None for test images of the run.
            overrides: other settings of `python -m fastconv.explain`, such as `method=[grad_cam]` or `measures=false`.

        Returns the path of the page, `explain.html`. Raises InputError for images that cannot be read.
        """
        files = [images] if isinstance(images, str | Path) else images
        settings = [] if files is None else [f"images=[{','.join(map(literally, files))}]"]
        config = self._config("explain", settings, overrides, accelerator=True)
        explain.check(config)
        from fastconv.analysis.attribution.experiment import explain_runs
        from fastconv.analysis.attribution.report import write_report

        folder = explain.report_folder(config)
        # No progress bar: a notebook would keep it.
        console = plain_console(force_terminal=False, force_jupyter=False)
        write_report(explain_runs(config, console), config, folder)
        return folder / "explain.html"

    def export(self, *formats: str, overrides: Sequence[str] = ()) -> list[Path]:
        """Write the network, with its preprocessing, into the run's folder as files that work without fastconv.

        Args:
            formats: `onnx` (model.onnx), `torch` (model.pt2), or both; both if none is given.
            overrides: other settings of `python -m fastconv.export`, such as `samples=100`.

        Returns the paths of the files. Raises InputError if a package is missing, or if the predictions of a file
        differ from those of this network.
        """
        config = self._config("export", [f"format=[{','.join(map(literally, formats))}]"] * bool(formats), overrides)
        export.check(config)
        from fastconv.analysis.export import FILES
        from fastconv.analysis.export import export as write
        from fastconv.config.commands import as_list

        write(config)
        return [self.run.folder / FILES[kind] for kind in as_list(config.format)]

    def _config(self, command: str, own: list[str], overrides: Sequence[str], accelerator: bool = False) -> Any:
        """The config of a command on this run. Raises InputError for overrides that are not strings or not possible."""
        require_texts(command, f'{command}(..., "data=folder")', overrides)
        settings = [f"run={literally(self.run.folder)}", f"trust={self.run.trusted}".lower()]
        settings += [f"accelerator={'cpu' if self.on_cpu else 'gpu'}"] * accelerator
        given = prepare_arguments(command, [*settings, *own, *overrides])
        try:
            return typed(command, compose(command, given), given)
        except COMPOSING_ERRORS as error:
            raise InputError(explain_error(error, command, given)) from error

    def _repr_html_(self) -> str:
        """The run in a small table, for notebooks."""
        config, results = self.run.config, self.run.results
        height, width, channels = self.shape
        rows = {
            "data": f"{config.dataset.name}: {len(self.classes):,} classes, {width}x{height}x{channels}",
            "network": config.model.name,
            "run": str(self.run.folder),
        }
        if results is not None:
            rows["network"] += f", {results.parameters:,} parameters" if results.parameters else ""
            if results.accuracy is not None:
                with_tta = results.accuracy_tta
                more = f" ({with_tta:.2%} with test-time augmentation)" if with_tta is not None else ""
                rows = {"accuracy": f"{results.accuracy:.2%} of the test images{more}", **rows}
            if results.seconds_counted is not None:
                limit = f" of {results.budget_seconds:g}" if results.budget_seconds else ""
                rows["seconds"] = f"{results.seconds_counted:.1f}{limit}"
                rows["device"] = results.device or "unknown"
        cells = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(printable(value))}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{''.join(cells)}</table>"


def load(folder: str | Path, accelerator: str = "auto", trust: bool = False) -> Predictor:
    """Load the trained network of a run.

    Args:
        folder: folder of the run, on this machine.
        accelerator: `auto`, `cpu` or `gpu`.
        trust: run the code that the run's files name, if it was trained with custom components (`_target_`).

    Raises InputError if the folder has no network, or names code without `trust`.
    """
    return Predictor(load_run(Path(os.path.expanduser(folder)), trust), accelerator)
