"""Optimizers by name.

Each is a value that builds a torch optimizer. Every parameter group owns its peak learning rate (`max_lr`), which the
schedule scales; the first group's is the `max_lr` of the settings. A group with `schedule_fraction` below 1 runs through the whole
schedule in that share of the run and stands still after it.
"""

from fastconv.optim.adamw import AdamW
from fastconv.optim.muon import Muon
from fastconv.optim.sgd import SGD

__all__ = ["OPTIMIZERS", "SGD", "AdamW", "Muon"]

OPTIMIZERS = {each().name: each for each in (SGD, AdamW, Muon)}
