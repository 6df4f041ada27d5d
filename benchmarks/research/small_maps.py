"""Times forward and backward with and without the matrix product of fastconv.models.layers.

PYTHONPATH=benchmarks python benchmarks/research/small_maps.py

Forward and backward of a part of a batch in bf16, with and without in turn; two minutes on two cores. Appends to
benchmarks/results/small_maps.csv and makes small_maps.md of it. Needs a CPU that multiplies bf16.
"""

import time
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F
from measurements import RESULTS, append, describe_device, provenance, read

from fastconv.budget.hardware import cpu_prefers_bf16, keep_freed_memory
from fastconv.models import build_model
from fastconv.models.layers import Convolution

ROWS, TABLE = RESULTS / "small_maps.csv", RESULTS / "small_maps.md"
ROUNDS, AT_ONCE = 7, 250
NETWORKS = {
    "DavidNet, 32x32x3": ("davidnet", {}, 32, 3),
    "DavidNet, 28x28x1": ("davidnet", {}, 28, 1),
    "airbench94, 32x32x3": ("airbench", {}, 32, 3),
    "airbench94, 28x28x1": ("airbench", {}, 28, 1),
    "airbench95, 32x32x3": ("airbench", {"widths": [128, 384, 384]}, 32, 3),
    "airbench96, 32x32x3": ("airbench", {"widths": [128, 384, 512], "convs": 3, "residual": True}, 32, 3),
}


def measure(name: str) -> None:
    """Add a row for each round: images per second with the matrix product, and with torch's own gradient."""
    model, settings, side, channels = NETWORKS[name]
    network = build_model(model, channels, 10, **settings).to(memory_format=torch.channels_last)
    images, labels = torch.randn(AT_ONCE, side, side, channels).permute(0, 3, 1, 2), torch.randint(10, (AT_ONCE,))

    def speed() -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        return AT_ONCE / (time.perf_counter() - started)

    def without() -> float:
        with mock.patch.object(Convolution, "_is_slow", return_value=False):
            return speed()

    speed(), without()
    for number in range(ROUNDS):
        row = {"network": name, "round": number, "product": round(speed(), 1), "without": round(without(), 1)}
        append(ROWS, row | provenance())


def table() -> str:
    lines = ["# Gradients of small maps as one matrix product", ""]
    lines += ["| network | images/s with it | without | faster by | n |", "| --- | --- | --- | --- | --- |"]
    last = read(ROWS)[-1]["device"]
    rows = [row for row in read(ROWS) if row["device"] == last]
    for name in NETWORKS:
        pairs = [(float(row["product"]), float(row["without"])) for row in rows if row["network"] == name]
        product, without = (median(each) for each in zip(*pairs, strict=True))
        faster = median(a / b for a, b in pairs)
        lines.append(f"| {name} | {product:,.0f} | {without:,.0f} | {faster:.2f}x | {len(pairs)} |")
    note = (
        f"Forward and backward of {AT_ONCE} images, medians over the rounds, in which both took turns; bf16."
        f" {last}; {rows[-1]['date']}; {rows[-1]['versions']}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main() -> None:
    if not cpu_prefers_bf16():
        raise SystemExit("fp32 is faster on this CPU, and is left as it is: nothing differs")
    keep_freed_memory()
    done = {row["network"] for row in read(ROWS) if row["device"] == describe_device()}
    for name in NETWORKS:
        if name not in done:
            measure(name)
    TABLE.write_text(table())
    print(table())


if __name__ == "__main__":
    main()
