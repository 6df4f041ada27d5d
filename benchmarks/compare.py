"""Times a table of 2,000 runs, start-up included: python benchmarks/compare.py

About a minute. The runs are synthetic: 100 settings of 20 seeds, with the results and the curve of a run.
"""

import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measurements import Table

from fastconv.config.overrides import compose
from fastconv.config.run_settings import hparams
from fastconv.config.schema import Config
from fastconv.config.typed_config import typed
from fastconv.runs.results import Results

ROUNDS = 5
SEEDS = 20
RATES, AUGMENTS = [0.01 * rate for rate in range(1, 21)], ("none", "crop", "flip", "cutout", "standard")
TABLE = Table("compare", "A table of 2,000 runs", "s")
CONTENDERS = {"table": (), "csv": ("format=csv",), "one row per run": ("by=runs",), "page": ("page=compare.html",)}


def make_runs(folder: Path) -> None:
    """2,000 folders of runs."""
    draw = random.Random(0)
    curve = "train/epoch,budget/seconds_counted,validate/accuracy\n"
    curve += "".join(f"{epoch},{4 * epoch},\n{epoch},,{1 - 1 / (epoch + 1)}\n" for epoch in range(1, 26))
    for augment in AUGMENTS:
        config: Config = typed("train", compose("train", [f"augment={augment}"]), [])
        for rate in RATES:
            for seed in range(SEEDS):
                run = folder / f"{augment}-{rate:.2f}-{seed}"
                run.mkdir()
                config.optimizer = dataclasses.replace(config.optimizer, max_lr=rate)
                config.seed = config.stream.seed = seed
                (run / "config.yaml").touch()
                (run / "metrics.csv").write_text(curve)
                written = [f"augment={augment}", f"optimizer.max_lr={rate}", f"seed={seed}"]
                results = Results("digits", "davidnet", None, seed, seed, overrides=written, hparams=hparams(config))
                measured = {
                    "accuracy": 0.9 + rate / 10 + draw.gauss(0, 0.005),
                    "seconds_counted": draw.uniform(90, 100),
                    "epochs": 25.0,
                    "stop_reason": "budget",
                    "device": "a processor",
                }
                dataclasses.replace(results, **measured).write(run)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder))
        for number in range(ROUNDS):
            for contender, overrides in CONTENDERS.items():
                if TABLE.lacks(number, contender):
                    started = time.perf_counter()
                    command = [sys.executable, "-m", "fastconv.compare", f"runs={folder}", *overrides]
                    subprocess.run(command, check=True, capture_output=True, cwd=folder)
                    TABLE.add(number, contender, time.perf_counter() - started)
    TABLE.show(note="100 settings of 20 seeds; with start-up.")


if __name__ == "__main__":
    main()
