"""Optimizers and schedules by name. torch is not imported until one is built.

The settings of an optimizer build a torch optimizer. Every parameter group has its own peak learning rate (`max_lr`),
which the schedule scales; the first group's is the `max_lr` of the settings. A group with `schedule_fraction` below 1
runs through the whole schedule in that share of the run and does not change after it; one with `schedule_start` does
not change before that share of the run, and runs through the whole schedule from there on.
"""

from fastconv.optim.registry import (
    OPTIMIZERS,
    SCHEDULES,
    Optimizer,
    Schedule,
    import_registered,
    register_optimizer,
    register_schedule,
)

import_registered()

from fastconv.optim.adamw import AdamW  # noqa: E402 - after the registry that it needs
from fastconv.optim.custom import CustomOptimizer, CustomSchedule, optimizer_key, optimizer_of  # noqa: E402
from fastconv.optim.muon import Muon  # noqa: E402
from fastconv.optim.sgd import SGD  # noqa: E402

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "AdamW",
    "CustomOptimizer",
    "CustomSchedule",
    "Muon",
    "Optimizer",
    "Schedule",
    "optimizer_key",
    "optimizer_of",
    "register_optimizer",
    "register_schedule",
]
