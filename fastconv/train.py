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
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from fastconv.budget.clock import Clock
from fastconv.config.cli import command
from fastconv.config.overrides import task_overrides
from fastconv.config.prerequisites import check_data, require_writable
from fastconv.config.resume import RunFolder, job_of_sweep, leave_reason, open_folder, unfinished
from fastconv.config.schema import Config
from fastconv.config.validation import check
from fastconv.runs.folder import is_finished
from fastconv.runs.results import Results
from fastconv.system.distributed import end_with_first_rank, is_first_rank
from fastconv.system.errors import InputError

if TYPE_CHECKING:
    from fastconv.budget.autotune.choose import Choice


def check_run(config: Config) -> None:
    """Raise InputError for a run that cannot work, as far as can be told without torch."""
    check(config)
    for key in ("explain", "article"):
        if getattr(config.sweep, key) and not config.checkpoint.save:
            raise InputError(f"sweep.{key}=true needs the networks: leave out checkpoint.save=false")
    require_writable(Path(config.outputs))
    check_data(config, chosen=config.autotune)


def check_search(config: Config) -> None:
    """Raise InputError for a search that cannot be, or by the test images, which nothing may be chosen by."""
    if config.validate.on != "holdout":
        raise InputError(
            "a sweep that looks for the best must not look at the test images: set dataset.holdout=0.1 and"
            " validate.on=holdout"
        )
    if config.dry_run:
        raise InputError("dry_run=true is not possible in a search: a plan is nothing to choose by")


def report(config: Config, sweep: Path) -> bool:
    """What is left to do when all runs of a sweep have ended: a table, a page, and whether all are finished."""
    from fastconv.analysis.comparison.groups import choose_measure, group_runs
    from fastconv.analysis.comparison.report import write_comparison
    from fastconv.analysis.comparison.tables import columns, group_rows, print_table
    from fastconv.runs.collection import find_runs

    entries = find_runs([sweep])
    if not entries:  # they were only planned
        return True
    groups = group_runs(entries, measure := choose_measure(entries))
    rows = group_rows(groups, measure)
    print_table(rows, columns(rows), [entry for group in groups for entry in group.problems])
    write_comparison(groups, measure, sweep / "compare.html")
    print(sweep / "compare.html")
    if config.sweep.explain:
        from fastconv.analysis.attribution.augmentation_effect import explain_sweep

        explain_sweep(sweep, config.data)
    if config.sweep.article:
        from fastconv.analysis.comparison.article import write_article

        print(write_article(sweep, config.data))
    return not any(entry.problem for entry in entries)


@command("config", __doc__, check_run, check_search, report)
def main(config: Config) -> float | None:
    """The command; see the top of this file. Returns what a sweep may look for the most of."""
    clock = Clock()
    check_run(config)
    end_with_first_rank()
    overrides = task_overrides()
    if choice := settle(config, overrides, clock):
        config = choice.config
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        if config.sweep.resume or config.sweep.explain or config.sweep.article:
            raise InputError("sweep.resume, explain and article are of a sweep: add -m and the values, or use resume")
        train(config, overrides, clock, unfinished(config, overrides), choice)
        return None
    job = Path(hydra.sweep.dir, hydra.sweep.subdir)
    if config.dry_run:
        train(config, overrides, clock, None, choice)
        return None
    with closing(job_of_sweep(config, job)) as folder:
        if is_finished(job):
            print(f"{job} is finished")
            return Results.read(job).accuracy_holdout
        try:
            return Results.read(train(config, overrides, clock, folder, choice)).accuracy_holdout
        except Exception as error:
            leave_reason(folder, error, overrides)
            raise


def settle(config: Config, overrides: list[str], clock: Clock) -> "Choice | None":
    """Choose what the config leaves open, if it does; a run that goes on in its folder has chosen."""
    if not config.autotune or config.resume not in (None, "auto"):
        return None
    from fastconv.budget.autotune.choose import choose

    return choose(config, overrides, clock)


def train(
    config: Config, overrides: list[str], clock: Clock, found: RunFolder | None, choice: "Choice | None" = None
) -> Path | None:
    """Plan a run and carry it out, in the folder `found` or a new one, which it returns.

    Args:
        overrides: what the config was made of, for the run's records.
        choice: what was chosen for it.

    Returns None if the run was only to be planned.
    """
    from rich.console import Console

    from fastconv.budget.forecast import plan_table, results_table
    from fastconv.training import plan as runs

    console = Console(quiet=not is_first_rank())
    config = found.config if found else config
    run = runs.plan_run(config, clock, choice.speed if choice else None)
    more = {"left out": run.train.note} if run.train.note else {}
    more |= {f"chosen: {what}": why for what, why in (choice.reasons if choice else {}).items()}
    console.print(plan_table(config, len(run.train), run.spec, run.device, run.speed, run.plan, run.parameters, more))
    if config.dry_run:
        return None
    from fastconv.training.trainer import fit

    with runs.stream_in_use(run):
        if is_first_rank():
            runs.precompute(run, console)
        with closing(open_folder(config, found)) as folder:
            if folder.resumed:
                console.print(f"going on in {folder.path}", highlight=False, markup=False)
            results = fit(run, console, folder, overrides)
    console.print(results_table(results, folder.path))
    return folder.path


if __name__ == "__main__":
    main()
