"""Trains a run from its config: makes the automatic choices, plans, trains in a folder, and shows the results."""

import dataclasses
from contextlib import closing
from pathlib import Path

from rich.console import Console

from fastconv.budget.autotune.choose import Choice, autotune, for_seconds_left
from fastconv.budget.clock import Clock
from fastconv.budget.hardware import prepare
from fastconv.budget.stream_mode import choose_stream
from fastconv.config import deadline
from fastconv.config.deadline import BoundedBudget, bounded, ends_with_job, going_on
from fastconv.config.prerequisites import require_first_room
from fastconv.config.resume import RunFolder, earlier_clock, job_of_sweep, leave_reason, open_folder, unfinished
from fastconv.config.schema import Config
from fastconv.data.splits import Splits
from fastconv.runs.folder import CHECKPOINT, is_finished, is_over
from fastconv.system.console_log import keep_log_in
from fastconv.system.distributed import agent, from_first_rank, is_first_rank, is_restarted
from fastconv.system.errors import warn
from fastconv.system.signals import pass_over_warning
from fastconv.system.terminal import rich_console
from fastconv.training.console import plan_table
from fastconv.training.fit import fit
from fastconv.training.mirror import copied
from fastconv.training.own_images import images_to_go_on_with, keep_record
from fastconv.training.plan import plan_run, require_time
from fastconv.training.refusal import removed_if_refused
from fastconv.training.run_stream import precompute, stream_in_use


def train(
    config: Config,
    data: Splits,
    overrides: list[str],
    clock: Clock,
    begun: RunFolder | None = None,
    job: Path | None = None,
) -> Path | None:
    """Train a network and score it.

    Args:
        config: a config that has been checked.
        data: the images of its data set.
        overrides: the overrides of the command line, for the run's records; autotune keeps what they set.
        clock: the run's clock.
        begun: the run to resume, which has this config; None for a new run.
        job: the run's folder in a sweep; None outside a sweep. A finished run stays as it is.

    Returns the run's folder; None with dry_run=true, which only prints the plan. Raises InputError for a config that
    cannot work on this machine, Interrupted after a signal.
    """
    console = rich_console(quiet=not is_first_rank())
    config = bounded(config, sum(clock.seconds().values()))
    if isinstance(config.budget, BoundedBudget):
        clock.follow(deadline.wall)
    if ends_with_job(config):
        pass_over_warning()
    # The choice is made again to find the run to resume, or that of a sweep's job, and must then be the same.
    is_repeated = job is not None or config.resume is not None or bool(agent())
    # A resumed run has made its choices already.
    choice = Choice(config, None, {}) if begun else settle(config, data, overrides, clock, is_repeated)
    if job is None or config.dry_run:
        begun = begun or (unfinished(choice.config, overrides) if job is None else None)
        return carry_out(choice, data, overrides, clock, console, begun)
    opened: list[RunFolder] = []

    def is_nothing_left() -> bool:
        opened.append(job_of_sweep(choice.config, job))
        return is_over(job)

    finished = from_first_rank("finished", is_nothing_left)
    if not is_first_rank():  # a launcher started it together with the first one
        return None if finished else carry_out(choice, data, overrides, clock, console, None)
    with closing(opened[0]) as folder:
        if finished:
            ended = "is finished" if is_finished(job) else "was pruned"
            console.print(f"{job} {ended}", highlight=False, markup=False, soft_wrap=True)
            return job
        keep_log_in(job)
        try:
            return carry_out(choice, data, overrides, clock, console, folder)
        except Exception as error:
            leave_reason(folder, error, overrides)
            raise


def settle(config: Config, data: Splits, overrides: list[str], clock: Clock, is_repeated: bool = True) -> Choice:
    """Choose the stream if it is `auto`, and the settings that `config.autotune` names, from what the budget allows on
    this machine.

    Args:
        is_repeated: whether other processes make the same choice (`for_seconds_left`).

    Raises InputError for hardware that is not there, and too little room for a stream that is precomputed.
    """
    reason = ""
    if config.stream.mode == "auto":
        with clock.segment("benchmark"):
            device = prepare(config.trainer)
            mode, reason = from_first_rank("stream", lambda: choose_stream(config, data.train, device))
        config = dataclasses.replace(config, stream=dataclasses.replace(config.stream, mode=mode))
        if mode == "precomputed":
            require_first_room(config, data.train)
    if config.autotune:
        choice = autotune(for_seconds_left(config, clock, is_repeated), data, overrides, clock)
        choice = dataclasses.replace(choice, config=dataclasses.replace(choice.config, budget=config.budget))
    else:
        choice = Choice(config, None, {})
    return dataclasses.replace(choice, reasons={**choice.reasons, "stream": reason}) if reason else choice


def carry_out(
    choice: Choice, data: Splits, overrides: list[str], clock: Clock, console: Console, begun: RunFolder | None
) -> Path | None:
    """Plan a run. Then, unless it is a dry run, precompute its stream, and train.

    Args:
        begun: the folder of the run to resume; None for a new one.
    """
    earlier, ends = from_first_rank("earlier", lambda: earlier_clock(begun))
    spent = sum(clock.seconds().values())
    choice = dataclasses.replace(choice, config=going_on(choice.config, earlier, ends, spent, overrides))
    data = images_to_go_on_with(choice.config, data, begun, console)
    has_trained = begun is not None and Path(begun.path, CHECKPOINT).exists()
    run = plan_run(choice.config, data, clock, choice.speed, choice.threads, has_trained)
    console.print(plan_table(run, choice.reasons))
    if run.config.dry_run:
        return None

    def write_stream() -> None:
        nonlocal run
        run = precompute(run, console)
        if begun is None:
            require_time(run)

    with stream_in_use(run):
        from_first_rank("written", write_stream)
        with closing(open_folder(run.config, begun)) as folder, removed_if_refused(folder):
            if folder.resumed:
                console.print(f"going on in {folder.path}", highlight=False, markup=False)
            elif run.config.resume == "auto":
                _say_it_is_new(run.config, console)
            with copied(run.config, folder, console):
                if is_first_rank():
                    keep_log_in(folder.path)
                    keep_record(data, folder)
                fit(run, console, folder, overrides)
    return folder.path


def _say_it_is_new(config: Config, console: Console) -> None:
    """Say that a run which should resume starts anew; warn if torchrun or SLURM has restarted it."""
    there = config.outputs_folder
    if not is_restarted():
        line = f"resume=auto: no run of these settings in {there} is unfinished; this is a new one"
        console.print(line, highlight=False, markup=False)
    elif is_first_rank():
        warn(
            f"this run was started anew, but no run of these settings in {there} on this machine is unfinished: it"
            " begins from the start. What a lost machine has begun is on its disk"
        )
