"""The table of a run's curves, `metrics.csv`, as a logger of Lightning's kind."""

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from fastconv.system.errors import InputError
from fastconv.system.files import write_atomically

# The file is written again when it has this share more rows, and as many at least: all writing during a run takes a few
# times as long as that at its end.
GROWTH, LEAST_ROWS = 0.25, 50


class MetricsTable(Logger):
    """Writes `metrics.csv`: a row for each record, a column for each metric, by name, and one for the step.

    The file is always whole: all rows are kept, and each time it is written anew. If that fails during training, the
    run goes on, and `write` at its end tries again. Only the first rank writes.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "metrics.csv"
        self._rows: list[dict[str, float]] = []
        self._next = LEAST_ROWS

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    @property
    def log_dir(self) -> str:
        """The folder of the run."""
        return self.save_dir

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = len(self._rows) if step is None else step
        self._rows.append({**metrics, "step": step})
        if len(self._rows) >= self._next:
            self._next = len(self._rows) + max(LEAST_ROWS, int(GROWTH * len(self._rows)))
            self.save()

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the config is a file of its own."""

    def save(self) -> None:
        """Write the table if that is possible now."""
        with suppress(InputError):
            self.write()

    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def write(self) -> None:
        """Write the table. Raises InputError if it cannot be written."""
        if not self._rows:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, sorted({name for row in self._rows for name in row}))
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, text.getvalue().encode())
