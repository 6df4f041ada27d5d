"""Measures the training step of experiment=speedrun, and the share of Muon in it.

PYTHONPATH=benchmarks python benchmarks/research/speedrun_step.py     about 15 minutes on two cores; reads FASTCONV_DATA
"""

import time

import torch
from bare_loop import measure_pairs, plan
from measurements import Table
from step import matrix_product

from fastconv.budget.flops import training_flops
from fastconv.models import build_model

ROUNDS = 3
RECIPE = ["dataset=cifar10", "experiment=speedrun"]
CEILING, MUON = "matrix product of the same work", "Muon's update alone"
TABLE = Table("speedrun_step", "The training step of speedrun: CIFAR-10, batches of 2000", "images/s", ours="fastconv")


def time_muon(updates: int = 5) -> float:
    """Images/s that the optimizer alone would allow."""
    run = plan(*RECIPE)
    batch_size, shape = run.config.batch_size, run.spec.shape
    model = build_model(run.config.model.name, shape[2], len(run.spec.classes), **run.model_settings)
    model.to(run.device.kind, memory_format=torch.channels_last)
    optimizer = run.config.optimizer.build(model, batch_size, run.device.precision)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    started = time.perf_counter()
    for _ in range(updates):
        optimizer.step()
    return updates * batch_size / (time.perf_counter() - started)


def main() -> None:
    run = plan(*RECIPE)
    flop = training_flops(run.config.model.name, run.model_settings, run.spec.shape, len(run.spec.classes))
    others = {CEILING: lambda: matrix_product(run.device.dtype) / flop, MUON: time_muon}
    for number in range(ROUNDS):
        if TABLE.lacks(number, "fastconv", "bare loop", *others):
            for contender, value in measure_pairs(RECIPE, pairs=3, group=1, warm_up=1, others=others).items():
                TABLE.add(number, contender, value)
    TABLE.show(
        note=f"{flop / 1e9:.3f} GFLOP per image, forward and backward, in {run.device.precision}; fastconv runs at"
        f" {TABLE.ratio(CEILING):.1%} of the FLOP/s of the matrix product, and Muon's update takes"
        f" {TABLE.ratio(MUON):.2%} of its step. All are timed in turn within one process; a round's values are those of"
        " the pair with the median ratio to the bare loop."
    )


if __name__ == "__main__":
    main()
