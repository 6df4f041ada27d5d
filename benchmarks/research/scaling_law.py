"""Trains networks of rising size for 1 to 64 epochs and scores held-out images: the data of the scaling law.

PYTHONPATH=benchmarks python benchmarks/research/scaling_law.py [--workers 5] [--limit SECONDS] [--networks 8 16 ...]

Appends a row for each run to benchmarks/results/scaling_law.csv; runs that have a row are skipped, so it can be stopped
and started again. Runs share the device, `--workers` at a time, so their seconds say nothing. Their accuracy does not
depend on the machine; fastconv's benchmark measures the speed of a network where it is used. Some minutes on an H100;
too much for two cores.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measurements import RESULTS, append, describe_device, describe_versions, read

# The networks, from the smallest; all airbench's.
NETWORKS = {
    "8": ("model.widths=[8,32,32]",),
    "16": ("model.widths=[16,64,64]",),
    "32": ("model.widths=[32,128,128]",),
    "64": (),  # airbench94
    "95": ("model=airbench95",),
    "96": ("model=airbench96",),
}
LIGHT, STRONG = "airbench", "airbench96"


@dataclass(frozen=True)
class Cell:
    """One run."""

    dataset: str
    network: str
    augment: str
    epochs: float
    settings: tuple[str, ...] = ()
    seed: int = 0

    @property
    def about(self) -> dict[str, str]:
        """The columns that identify the run."""
        settings = " ".join(self.settings)
        return {"dataset": self.dataset, "network": self.network, "augment": self.augment,
                "epochs": f"{self.epochs:g}", "settings": settings, "seed": str(self.seed)}  # fmt: skip

    @property
    def overrides(self) -> list[str]:
        """The command line of its run."""
        return [
            f"dataset={self.dataset}", "experiment=speedrun", *NETWORKS[self.network], f"augment={self.augment}",
            f"schedule.max_epochs={self.epochs:g}", f"seed={self.seed}", "stream.seed=0", "dataset.holdout=0.1",
            "validate.on=holdout", "validate.every=1000", "budget.seconds=null", "checkpoint.save=false",
            "figures=false", "stream.verify=false", "trainer.compile=false", *self.settings,
        ]  # fmt: skip


def cells() -> list[Cell]:
    """All runs, the most informative first."""
    found = [Cell("cifar10", net, LIGHT, epochs) for epochs in (1, 2, 4, 8, 16) for net in NETWORKS]
    found += [Cell("fashion_mnist", net, LIGHT, epochs) for epochs in (1, 2, 4, 8, 16) for net in ("16", "32", "64")]
    found += [Cell("cifar10", net, STRONG, 16) for net in NETWORKS if net != "8"]
    found += [Cell("cifar10", net, LIGHT, epochs, (f"batch_size={size}",))
              for size in (500, 1000) for epochs in (1, 2, 4) for net in ("16", "32")]  # fmt: skip
    found += [Cell("cifar10", net, STRONG, 32) for net in ("16", "32", "64", "95", "96")]
    found += [Cell("fashion_mnist", net, STRONG, epochs) for epochs in (16, 32) for net in ("32", "64", "95")]
    found += [Cell("mnist", net, LIGHT, epochs) for epochs in (1, 2, 4, 8, 16) for net in ("16", "32", "64")]
    found += [Cell("cifar10", "32", LIGHT, 4, (f"optimizer.max_lr={peak}",)) for peak in (0.12, 0.48)]
    found += [Cell("cifar10", net, STRONG, 16, ("average=ema",)) for net in ("32", "64")]
    found += [Cell("cifar10", "64", STRONG, 32, (f"optimizer.max_lr={peak}",)) for peak in (0.12,)]
    found += [Cell("mnist", "64", STRONG, 16), Cell("mnist", "95", LIGHT, 16), Cell("mnist", "64", STRONG, 32)]
    found += [Cell("cifar10", net, STRONG, 64) for net in ("64", "32")]
    found += [Cell("fashion_mnist", "16", LIGHT, epochs, ("dataset.flip=0",)) for epochs in (2, 4)]
    # Few images need smaller batches, with which two CPU cores are as fast.
    found += [Cell("cifar10", net, LIGHT, 1, ("batch_size=250", "micro_batch_size=250")) for net in ("8", "16", "32")]
    found += [Cell("cifar10", "8", LIGHT, epochs, (f"batch_size={250 * epochs}",)) for epochs in (2, 4)]
    found += [
        Cell("fashion_mnist", net, LIGHT, 1, ("batch_size=250", "micro_batch_size=250")) for net in ("8", "16", "32")
    ]
    found += [Cell("fashion_mnist", net, LIGHT, 2, ("batch_size=500",)) for net in ("8", "16", "32")]
    return found


def measure(cell: Cell) -> dict[str, object]:
    """Run one of them."""
    import warnings

    import torch
    from omegaconf import OmegaConf
    from rich.console import Console

    from fastconv.budget.clock import Clock
    from fastconv.config.overrides import compose
    from fastconv.config.prerequisites import check_data
    from fastconv.config.resume import RunFolder
    from fastconv.runs.results import git_commit
    from fastconv.training import fit as training
    from fastconv.training.plan import plan_run
    from fastconv.training.run_stream import precompute, stream_in_use

    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    config = OmegaConf.to_object(compose("train", cell.overrides))
    run = plan_run(config, check_data(config), Clock())
    quiet = Console(quiet=True)
    with stream_in_use(run), tempfile.TemporaryDirectory() as folder:
        run = precompute(run, quiet)
        found = training.fit(run, quiet, RunFolder(Path(folder), run.config, resumed=False), cell.overrides)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {
        **cell.about,
        "accuracy_holdout": round(found.accuracy_holdout, 5),
        "accuracy_holdout_tta": round(found.accuracy_holdout_tta, 5),
        "parameters": found.parameters,
        "petaflop": round(found.petaflop, 6),
        "steps": found.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "train_seconds": round(found.seconds["train"], 1),
        "data_wait": round(found.dataloader_wait_fraction, 3),
        "device": describe_device(),
        "precision": found.precision,
        "date": time.strftime("%Y-%m-%d"),
        "versions": describe_versions(),
        "git_commit": git_commit(),
    }


def attempt(cell: Cell) -> tuple[Cell, dict[str, object] | str]:
    """A row, or why there is none."""
    try:
        return cell, measure(cell)
    except Exception as error:  # the others are to be measured all the same
        return cell, f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1e6, help="seconds after which to stop")
    parser.add_argument("--csv", type=Path, default=RESULTS / "scaling_law.csv")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    given = parser.parse_args()
    started = time.monotonic()
    done = read(given.csv)
    left = [cell for cell in cells() if not any(cell.about.items() <= row.items() for row in done)]
    left = [cell for cell in left if cell.network in given.networks]
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        waiting = pool.imap_unordered(attempt, left)
        for number in range(len(left)):
            try:
                cell, row = waiting.next(timeout=max(1.0, given.limit - (time.monotonic() - started)))
            except multiprocessing.TimeoutError:
                print(f"stopped: {number} of {len(left)} done")
                break
            if isinstance(row, str):
                print(*cell.overrides, row, flush=True)
                continue
            append(given.csv, row)
            shown = ("accuracy_holdout", "accuracy_holdout_tta", "petaflop", "seconds", "train_seconds", "data_wait")
            print(
                f"{time.monotonic() - started:5.0f} s", *cell.about.values(), *(row[key] for key in shown), flush=True
            )
        pool.terminate()


if __name__ == "__main__":
    main()
