"""python -m fastconv.train [key=value ...]

Train a network on an augmented stream inside a time budget, and score it. Looks at the machine and prints a plan
first; leaves results, curves, figures and the checkpoint in a new folder below `outputs`.

  python -m fastconv.train dataset=fashion_mnist
  python -m fastconv.train dataset=cifar10 experiment=original budget.seconds=300
  python -m fastconv.train resume=outputs/cifar10/2026-11-25_09-00-00-a1b2c3
  python -m fastconv.train -m dataset=mnist seed=0,1,2
  python -m fastconv.train dataset=mnist experiment=augmentation_effect
"""

from contextlib import closing
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from fastconv.clock import Clock
from fastconv.command import command
from fastconv.config import Config
from fastconv.errors import InputError
from fastconv.overrides import task_overrides
from fastconv.prerequisites import check_data, require_writable
from fastconv.ranks import end_with_first_rank, is_first_rank
from fastconv.rules import check
from fastconv.run_folder import is_finished, job_of_sweep, open_folder, unfinished


def check_run(config: Config) -> None:
    """Raise InputError for a run that cannot work, as far as can be told without torch."""
    check(config)
    if config.sweep.explain and not config.checkpoint.save:
        raise InputError("sweep.explain=true needs the networks: leave out checkpoint.save=false")
    sweep = Path(config.sweep.resume or "-")
    if sweep.is_dir() and any(sweep.iterdir()) and not (sweep / "multirun.yaml").exists():
        raise InputError(f"sweep.resume={sweep} is not the folder of a sweep: it has no multirun.yaml")
    require_writable(Path(config.outputs))
    check_data(config)


def report(config: Config, sweep: Path) -> None:
    """What is left to do when all runs of a sweep are done."""
    if config.sweep.explain and not config.plan_only:
        from fastconv.augmentation_effect import explain_sweep

        explain_sweep(sweep, config.data)


@command("config", __doc__, check_run, after_sweep=report)
def main(config: Config) -> None:
    """The command; see the top of this file."""
    clock = Clock()
    check_run(config)
    from rich.console import Console

    from fastconv import run as runs
    from fastconv.forecast import plan_table, results_table

    end_with_first_rank()
    console = Console(quiet=not is_first_rank())
    hydra = HydraConfig.get()
    overrides = task_overrides()
    sweep = hydra.mode == RunMode.MULTIRUN
    if not sweep and (config.sweep.resume or config.sweep.explain):
        raise InputError("sweep.resume and sweep.explain are of a sweep: add -m and the values, or use resume")
    job = Path(hydra.sweep.dir, hydra.sweep.subdir) if sweep and config.sweep.resume else None
    found = job_of_sweep(config, job) if job else unfinished(config, overrides)
    if job and found and is_finished(job):
        console.print(f"{job} is finished", highlight=False, markup=False)
        return
    config = found.config if found else config
    if sweep and config.trainer.devices > 1:
        raise InputError("a sweep in one process cannot train on several devices: start a command for each value")
    run = runs.plan_run(config, clock)
    console.print(plan_table(config, run.spec, run.device, run.probe, run.plan, run.parameters))
    if config.plan_only:
        return
    from fastconv.training import fit

    parent, name = (Path(hydra.sweep.dir), hydra.sweep.subdir) if sweep else (None, None)
    with runs.stream_in_use(run):
        if is_first_rank():
            runs.precompute(run, console)
        with closing(open_folder(config, found, parent, name)) as folder:
            if folder.resumed:
                console.print(f"going on in {folder.path}", highlight=False, markup=False)
            results = fit(run, console, folder, overrides)
    console.print(results_table(results, folder.path))


if __name__ == "__main__":
    main()
