"""python -m fastconv.train [key=value ...]

Train a network on an augmented stream within a time budget, and score it. Measures the machine and prints a plan first.
Writes results, curves, figures and the checkpoint to a new folder below `outputs`. experiment=best chooses the network
and its settings for the budget.

  python -m fastconv.train dataset=cifar10 experiment=best budget.seconds=100
  python -m fastconv.train dataset=fashion_mnist experiment=original
  python -m fastconv.train resume=outputs/cifar10/2026-11-25_09-00-00-a1b2c3
  python -m fastconv.train -m dataset=mnist seed=0,1,2
  python -m fastconv.train dataset=mnist experiment=search 'optimizer.max_lr=interval(0.05,1)'
  python -m fastconv.train dataset=mnist experiment=augmentation_effect
"""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

from fastconv.budget.clock import Clock
from fastconv.config.cli import READING, Command
from fastconv.config.job import sweep_job_folder
from fastconv.config.next_command import print_next_of_run
from fastconv.config.overrides import task_overrides
from fastconv.config.prerequisites import check_data, require_loggers, require_weights, require_writable
from fastconv.config.restart import finished_before, of_restarted_job
from fastconv.config.resume import unfinished
from fastconv.config.schema import Config
from fastconv.config.search_storage import require_storage
from fastconv.config.trust import GIVEN
from fastconv.config.validation import check
from fastconv.data.splits import Splits
from fastconv.runs.folder import is_pruned
from fastconv.runs.results import Results
from fastconv.system.distributed import (
    agent,
    check_world,
    end_with_first_rank,
    is_first_rank,
    is_restarted,
    on_any_rank,
    started_together,
)
from fastconv.system.errors import InputError
from fastconv.system.heartbeat import watching_ranks
from fastconv.system.lean_imports import lean_imports, without_garbage_collection
from fastconv.system.process import take_start_seconds
from fastconv.system.targets import targets_in


def check_run(config: Config, begun: bool = False) -> Splits:
    """Check a run as far as possible without torch, and return its images.

    Args:
        begun: whether an earlier process has started the run, whose checkpoint then has the weights.

    Raises InputError for a run that cannot work.
    """
    check_world(config.trainer.devices, config.trainer.nodes)  # first, since the batch depends on it
    check(config)
    if config.sweep.report != "none" and not config.checkpoint.save:
        raise InputError(f"sweep.report={config.sweep.report} needs the networks: leave out checkpoint.save=false")
    require_loggers(config)
    if not begun and config.resume is None and config.sweep.resume is None:
        require_weights(config)
    require_writable(config.outputs_folder)
    return check_data(config, chosen=config.autotune)


def check_search(config: Config) -> None:
    """Raise InputError for a search that cannot work here, or that would choose by the test images."""
    if config.validate.on != "holdout":
        raise InputError("a search must not look at the test images: set dataset.holdout=0.1 and validate.on=holdout")
    if config.trainer.world > 1:  # the other ranks would go on where the first one ends a trial early
        raise InputError(
            f"a search trains each trial on one device, not on {config.trainer.world}: leave out trainer.devices, and"
            " start the command once for each device, with the same sweep.resume=FOLDER"
        )
    if config.dry_run:
        raise InputError("dry_run=true is not possible in a search: a plan has no accuracy to compare")
    require_storage(config.sweep.storage)


def report(config: Config, sweep: Path) -> bool:
    """Finish a sweep: print a table, and write its page and its report. Returns whether all runs have finished."""
    from fastconv.analysis.comparison.sweep_report import write_sweep_report

    own = config.trust or config.sweep.resume is None  # a sweep to resume may be somebody else's
    return write_sweep_report(sweep, config.sweep.report, Path(config.data), own)


@Command("train", __doc__, check_run, check_search, report, READING, has_ranks=True)
def main(config: Config) -> float | None:
    """Run the command; see the top of this file. Returns the held-out objective, which a search maximises."""
    clock, overrides, job = Clock(start_seconds=take_start_seconds()), task_overrides(), sweep_job_folder()
    if job is None and (config.sweep.resume or config.sweep.report != "none" or config.sweep.trials):
        raise InputError("sweep.resume, sweep.report and sweep.trials need a sweep: add -m and the values")
    is_named = config.resume not in (None, "auto")
    if not is_named:  # one that is named has its own number of devices
        check_world(config.trainer.devices, config.trainer.nodes)
        if started_together() and not targets_in(dataclasses.asdict(config)):
            # Before the ranks meet: all refuse the same settings, and one says so. But code of the user may be missing
            # on one machine alone, and then the others must hear of it.
            check(config)
    with watching_ranks():
        may_go_on = not is_named and job is None and (agent() or is_restarted())
        if may_go_on and on_any_rank("restarted", is_restarted()):
            if (ended := finished_before(config, overrides)) is not None:
                if is_first_rank():
                    print(f"{ended} is finished")
                return None
            config = dataclasses.replace(config, resume=of_restarted_job(config, overrides))
        begun = unfinished(config, overrides) if config.resume not in (None, "auto") else None  # of a restarted job too
        config = begun.config if begun else config
        data = check_run(config, begun is not None)
        end_with_first_rank()
        own_code = targets_in(dataclasses.asdict(config))
        with without_garbage_collection(), nullcontext() if own_code else lean_imports():
            from fastconv.training.run import train

        folder = train(config, data, overrides, clock, begun, job)
    if folder and config.checkpoint.save and not is_pruned(folder):
        # Another command follows neither the code nor the URLs that a run's files name, unless it is told to.
        told = GIVEN if any("://" in override for override in overrides) else ()
        print_next_of_run("evaluate", folder, *(["trust=true"] if own_code else []), carried=told)
    if job is None or folder is None or not is_first_rank():  # whose folder may be on the disk of another machine
        return None
    objective: float | None = getattr(Results.read(folder), f"{config.objective}_holdout")
    return objective


if __name__ == "__main__":
    main()
