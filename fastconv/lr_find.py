"""python -m fastconv.lr_find [key=value ...]

Suggest a peak learning rate, optimizer.max_lr, for the run that the same overrides would train. A range test raises the
learning rate from step to step and records the loss. The suggestion is a hint from this short test: the largest
learning rate up to which the loss fell. Writes the losses and a figure to a new folder below `outputs`.

  python -m fastconv.lr_find dataset=fashion_mnist model.width=16
  python -m fastconv.lr_find dataset=cifar10 experiment=original range_test.steps=200
  python -m fastconv.lr_find -m dataset=mnist seed=0,1,2
"""

import dataclasses
from pathlib import Path

from fastconv.budget.clock import Clock
from fastconv.config.cli import READING, Command
from fastconv.config.commands import LrFind
from fastconv.config.job import sweep_job_folder
from fastconv.config.prerequisites import check_data, require_weights, require_writable
from fastconv.config.validation import check
from fastconv.data.splits import Splits
from fastconv.system.errors import InputError
from fastconv.system.settings import check_local
from fastconv.system.terminal import plain_console
from fastconv.system.wording import counted


def only_training(config: LrFind) -> LrFind:
    """The config for training only: without validation, and with the online stream, which has the same bytes."""
    stream = dataclasses.replace(config.stream, mode="online")
    return dataclasses.replace(config, stream=stream, validate=dataclasses.replace(config.validate, on="none"))


def check_range_test(config: LrFind) -> Splits:
    """Check a range test as far as possible without torch, and return its images.

    Raises InputError for a range test that cannot work.
    """
    check(config)
    trainer = config.trainer
    if trainer.world > 1:
        what = f"trainer.devices={trainer.devices}" if trainer.devices > 1 else f"trainer.nodes={trainer.nodes}"
        raise InputError(
            f"{what} is not possible: a range test runs on one device. The learning"
            " rate that it suggests does not depend on their number"
        )
    test = config.range_test
    if test.min_lr >= test.max_lr:
        raise InputError(f"range_test.min_lr={test.min_lr:g} is not possible: give less than range_test.max_lr")
    require_weights(config)
    check_local("outputs", config.outputs)
    require_writable(Path(config.outputs))
    return check_data(only_training(config))


@Command("lr_find", __doc__, check_range_test, first_line=READING)
def main(config: LrFind) -> None:
    """Run the command; see the top of this file."""
    data = check_range_test(config)
    from fastconv.runs.folder import new_run_folder
    from fastconv.training.lr_range_test import conclusions, run_range_test, write_range_test
    from fastconv.training.plan import plan_run

    console = plain_console()
    clock, test = Clock(), config.range_test
    run = plan_run(only_training(config), data, clock)
    console.print(
        f"{config.dataset.name}, {config.model.name}: {counted(test.steps, 'step')} of"
        f" {counted(config.batch_size, 'image')} in parts of {config.micro_batch_size},"
        f" {run.device.precision}, learning rate {test.min_lr:g} to {test.max_lr:g}"
    )
    curve = run_range_test(run, test, console)
    lines = conclusions(curve, test)
    job = sweep_job_folder()
    folder = new_run_folder(Path(config.outputs) / config.dataset.name, job, prefix="lr_find-")
    try:
        write_range_test(curve, config, folder)
    except BaseException:
        for path in folder.glob("lr_find.*"):
            path.unlink()
        if job is None:
            folder.rmdir()
        raise
    for line in lines:
        console.print(line)
    console.print(f"{sum(clock.seconds().values()):.1f} s. Losses and figure are in {folder}")


if __name__ == "__main__":
    main()
