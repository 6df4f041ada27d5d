"""Measures Winograd's convolutions against direct ones: single layers, and whole training steps, in fp32 or bf16.

python benchmarks/winograd.py                      layers and steps: about 25 minutes on two cores
python benchmarks/winograd.py measure=steps rounds=1 threads=1 precision=bf16

Direct and Winograd take turns: in a layer by passes, in a run by steps of one and the same training. The data sets are
looked for in FASTCONV_DATA. `fastconv.kernels.winograd` has the rule that follows from the layers.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import lightning as L
import torch
from bare_loop import plan, train_with
from measurements import Table
from omegaconf import OmegaConf
from step import matrix_product, plain_lightning

from fastconv.budget.benchmark import peak_memory_mb
from fastconv.budget.flops import training_flops
from fastconv.budget.hardware import dtype_of, keep_freed_memory
from fastconv.config.overrides import compose
from fastconv.kernels import winograd
from fastconv.models import build_model, model_settings
from fastconv.models.layers import Convolution
from fastconv.system.errors import InputError
from fastconv.training.plan import Run

CHOICES = {"measure": "layers,steps,memory", "networks": "DavidNet,airbench94,32-128-128,16-64-64", "rounds": "5",
           "threads": str(os.cpu_count()), "precision": "fp32"}  # fmt: skip
# Inputs, outputs, side of the map and images of the networks' layers, and of some beside the rule.
LAYERS = (
    (64, 128, 32, 64), (128, 128, 16, 128), (128, 256, 16, 128), (256, 512, 8, 128), (512, 512, 4, 256),
    (24, 64, 31, 64), (64, 64, 15, 256), (64, 256, 15, 64), (256, 256, 7, 128), (256, 256, 3, 256),
    (24, 32, 31, 64), (32, 32, 15, 256), (32, 128, 15, 128), (128, 128, 7, 256), (128, 128, 3, 512),
    (24, 16, 31, 64), (16, 16, 15, 256), (16, 64, 15, 256), (64, 64, 7, 256), (64, 64, 3, 512),
    (512, 512, 2, 256), (8, 8, 15, 256), (3, 64, 32, 64),
)  # fmt: skip
PASSES = 5
PLAIN = "DavidNet, plain Lightning"
NETWORKS = {
    "DavidNet": ("model=davidnet", "batch_size=512"),
    "airbench94": ("model=airbench", "batch_size=1000", "micro_batch_size=500"),
    "32-128-128": ("model=airbench", "model.widths=[32,128,128]", "batch_size=1000", "micro_batch_size=500"),
    "16-64-64": ("model=airbench", "model.widths=[16,64,64]", "batch_size=1000", "micro_batch_size=500"),
}
# Turns of direct and of Winograd steps, after the first of each, and images in a turn.
TURNS, IMAGES = 5, 1000
SETTINGS = ("dataset=cifar10", "trainer=cpu", "trainer.winograd=on", "stream=online",
            "schedule.max_epochs=1", "budget.seconds=null", "validate.on=none", "augment=none",
            "figures=false")  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_layer(inputs: int, outputs: int, side: int, images: int, precision: str) -> dict[bool, float]:
    """Seconds of a forward and backward pass of a layer, direct (False) and Winograd's (True): medians of passes."""
    dtype, memory_format = dtype_of(precision), torch.channels_last
    layer = Convolution(inputs, outputs).to(memory_format=memory_format)
    x = torch.randn(images, inputs, side, side).to(dtype, memory_format=memory_format).requires_grad_()
    gradient = torch.randn(images, outputs, side, side).to(dtype, memory_format=memory_format)
    tile = 2 if side <= 2 else 4  # also where the rule says 0

    def direct() -> None:
        with winograd.direct_convolutions(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = layer(x)
        torch.autograd.grad(out, (x, layer.weight), gradient)

    def ours() -> None:
        torch.autograd.grad(winograd.winograd_conv2d(x, layer.weight, 1, tile), (x, layer.weight), gradient)

    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(PASSES + 1):
        for is_ours, work in ((False, direct), (True, ours)):
            found[is_ours].append(seconds(work))
    return {is_ours: median(times[1:]) for is_ours, times in found.items()}


class Turns(L.Callback):
    """Lets direct and Winograd's steps of one training take turns; `found` has images/s of each turn."""

    def __init__(self, run: Run, steps: int, product: Callable[[], float]) -> None:
        self.run, self.steps, self.product = run, steps, product
        self.found: dict[bool, list[float]] = {False: [], True: []}
        self.products: list[float] = []
        self._since = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx % self.steps:
            return
        if batch_idx:
            images = self.run.config.batch_size * self.steps
            self.found[winograd.uses_winograd()].append(images / (time.perf_counter() - self._since))
        if not batch_idx // self.steps % 2:
            self.products.append(self.product())
        winograd.use_winograd(bool(batch_idx // self.steps % 2), self.run.device.dtype)
        self._since = time.perf_counter()


def measure_steps(*overrides: str, threads: int, precision: str) -> dict[str, float]:
    """images/s of a run's direct and Winograd's steps, medians of turns, and those that the matrix product of the
    direct operations would allow."""
    given = [*SETTINGS, *overrides, f"trainer.num_threads={threads}", f"trainer.precision={precision}"]
    run = plan(*given)
    steps = max(1, IMAGES // run.config.batch_size)
    run = replace(run, plan=replace(run.plan, max_steps=2 * (TURNS + 1) * steps + 1))
    flop = training_flops(run.config.model.name, run.model_settings, run.spec.shape, len(run.spec.classes))
    turns = Turns(run, steps, lambda: matrix_product(dtype_of(precision)) / flop)
    train_with(run, turns, given)
    direct, ours = (median(turns.found[is_ours][1:]) for is_ours in (False, True))
    return {"direct": direct, "Winograd": ours, "matrix product": median(turns.products[1:])}


def measure_memory(name: str, threads: int) -> dict[str, float]:
    """Peak memory in MB of processes that compute direct and Winograd's passes of a network in fp32, nothing else."""
    found = {}
    for contender in ("direct", "Winograd"):
        command = [sys.executable, __file__, f"measure={contender}", f"networks={name}", f"threads={threads}"]
        found[contender] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return found


def peak_memory(name: str, contender: str) -> float:
    """Peak memory of this process in MB after passes of a network."""
    config = compose("train", [*SETTINGS, *NETWORKS[name]])
    micro, settings = config.micro_batch_size, OmegaConf.to_object(config).model
    model = build_model(settings.name, 3, 10, **model_settings(settings)).to(memory_format=torch.channels_last)
    images = torch.randn(micro, 3, 32, 32).to(memory_format=torch.channels_last)
    winograd.use_winograd(contender == "Winograd")
    for _ in range(3):
        model(images).square().mean().backward()
    return peak_memory_mb("cpu")


def settings(given: list[str]) -> dict[str, str]:
    """The command line's key=value over the defaults. Raises InputError for another key."""
    found = dict(CHOICES)
    for each in given:
        key, _, value = each.partition("=")
        if key not in found or not value:
            raise InputError(f"{each} is unknown: give {', '.join(f'{key}={value}' for key, value in CHOICES.items())}")
        found[key] = value
    return found


def winograds(contender: str) -> str:
    """The contender by Winograd that a contender is compared with."""
    layer_or_network, _, other = contender.rpartition(", ")
    return layer_or_network if other in ("direct", "matrix product", "plain Lightning") else contender


def main(*given: str) -> None:
    chosen = settings(list(given))
    rounds, threads = int(chosen["rounds"]), int(chosen["threads"])
    torch.set_num_threads(threads)
    keep_freed_memory()
    networks = {name: NETWORKS[name] for name in chosen["networks"].split(",")}
    if chosen["measure"] in ("direct", "Winograd"):
        print(peak_memory(*networks, chosen["measure"]))
        return
    about = f"{threads} thread{'s' * (threads > 1)}"
    precision = chosen["precision"]
    if precision not in ("fp32", "bf16"):
        raise InputError(f"precision={precision} is unknown: give fp32 or bf16")
    if why := winograd.obstacle(dtype_of(precision)):
        raise InputError(f"there are no Winograd convolutions here: {why}")
    suffix = "_bf16" * (precision == "bf16") + f"_{threads}_threads" * (chosen["threads"] != CHOICES["threads"])
    title = f"A layer's forward and backward pass, {precision}, {about}"
    layers = Table(f"winograd_layers{suffix}", title, "ms", ours="Winograd", less_is_better=True)
    steps = Table(f"winograd{suffix}", f"The training step, {precision}, {about}", "images/s", ours="Winograd")
    has_plain = "steps" in chosen["measure"] and "DavidNet" in networks and precision == "fp32"
    for number in range(rounds):
        for inputs, outputs, side, images in LAYERS if "layers" in chosen["measure"] else ():
            name = f"{inputs} to {outputs} at {side}x{side}, {images} images"
            if layers.lacks(number, name, f"{name}, direct"):
                found = measure_layer(inputs, outputs, side, images, precision)
                layers.add(number, f"{name}, direct", 1000 * found[False])
                layers.add(number, name, 1000 * found[True])
        for name, overrides in networks.items() if "steps" in chosen["measure"] else ():
            if steps.lacks(number, name, f"{name}, direct", f"{name}, matrix product"):
                found = measure_steps(*overrides, threads=threads, precision=precision)
                steps.add(number, name, found["Winograd"])
                steps.add(number, f"{name}, direct", found["direct"])
                steps.add(number, f"{name}, matrix product", found["matrix product"])
        if has_plain and steps.lacks(number, PLAIN):
            steps.add(number, PLAIN, plain_lightning())
    for table, note in (
        (layers, "Medians of passes in turn; the rule is in fastconv/kernels/winograd.py."),
        (steps, "CIFAR-10; steps of one training under Lightning, in turn. The matrix product is that of the direct"
                f" operations, in {precision}."),
    ):  # fmt: skip
        if rows := table.rounds():
            table.show({name: winograds(name) for values in rows.values() for name in values}, note)
    for name in networks if "memory" in chosen["measure"] else ():
        peak = measure_memory(name, threads)
        print(f"{name}, fp32: peak memory {peak['direct']:,.0f} MB direct, {peak['Winograd']:,.0f} MB Winograd")


if __name__ == "__main__":
    main(*sys.argv[1:])
