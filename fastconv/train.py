"""python -m fastconv.train [key=value ...]

Train a network on an augmented stream inside a time budget, and score it. Looks at the machine and prints a plan
first; leaves results, curves, figures and the checkpoint in a new folder below `outputs`.

  python -m fastconv.train dataset=fashion_mnist
  python -m fastconv.train dataset=cifar10 experiment=original budget.seconds=300
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from fastconv.clock import Clock
from fastconv.command import command
from fastconv.config import Config
from fastconv.errors import InputError


@command("config", __doc__)
def main(config: Config) -> None:
    """The command; see the top of this file."""
    clock = Clock()
    from rich.console import Console

    from fastconv import run as runs
    from fastconv.forecast import plan_table, results_table
    from fastconv.training import fit

    console = Console(quiet=not runs.is_first_rank())
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and config.trainer.devices > 1:
        raise InputError("a sweep in one process cannot train on several devices: start a command for each value")
    run = runs.plan_run(config, clock)
    console.print(plan_table(config, run.spec, run.device, run.probe, run.plan, run.parameters))
    if config.plan_only:
        return
    runs.require_writable(Path(config.outputs))
    if runs.is_first_rank():
        runs.precompute(run, console)
    if hydra.mode == RunMode.MULTIRUN:
        folder = runs.make_run_folder(config, Path(hydra.sweep.dir), hydra.sweep.subdir)
    else:
        folder = runs.make_run_folder(config)
    results = fit(run, console, folder, overrides=list(hydra.overrides.task))
    console.print(results_table(results, folder))


if __name__ == "__main__":
    main()
