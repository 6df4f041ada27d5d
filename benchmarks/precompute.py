"""Measures how fast augmented epochs are written, against torchvision's transforms, and whether it stays linear; and
what a process costs that writes a part of them.

python benchmarks/precompute.py          about 6 minutes; the data sets are looked for in FASTCONV_DATA
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measurements import Table
from torchvision import transforms
from torchvision.datasets import CIFAR10

from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.dataset import mean_and_std
from fastconv.data.loading import load
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.stream.writer import write_stream

ROUNDS = 5
SPEED = Table("precompute", "Augmenting CIFAR-10: crop, flip, cutout", "images/s per core", ours="fastconv")
PER_IMAGE = "torchvision's transforms, image by image"
SECONDS = Table("precompute_seconds", "Writing epochs of CIFAR-10", "s per epoch")
MEMORY = Table("precompute_memory", "Peak memory of writing epochs of CIFAR-10", "MB")
EPOCHS = (1, 5, 25)
SPEEDS = {5: "fastconv", 25: "fastconv, 25 epochs in one go"}
TRANSFORMED = 5000
PARTS, PARTS_EPOCHS, PARTS_ROUNDS = 4, 40, 3
WHOLE, LARGEST = "one process", f"the largest of {PARTS} parts"
CPU = Table("precompute_parts", f"Writing {PARTS_EPOCHS} epochs of CIFAR-10", "CPU s (user and system)")


def write(data: Path, epochs: int) -> tuple[float, float]:
    """(seconds, peak memory in MB) of writing `epochs` epochs to disk, with checksums, on all cores."""
    train, _ = load("cifar10", data)
    mean, std = mean_and_std(train.images)
    policy = Policy(Crop(4), Flip(0.5), Cutout(8))
    spec = StreamSpec("cifar10", train.digest, train.classes, (32, 32, 3), len(train), mean, std, policy, seed=0)
    with tempfile.TemporaryDirectory(dir=data) as root:
        started = time.perf_counter()
        write_stream(spec, train, Path(root), epochs)
        seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def cpu_seconds(data: Path, root: str, *overrides: str) -> float:
    """CPU seconds of a command that writes epochs to a folder."""
    command = [sys.executable, "-m", "fastconv.precompute", "dataset=cifar10", f"stream.epochs={PARTS_EPOCHS}"]
    process = subprocess.Popen([*command, f"stream.root={root}", f"data={data}", *overrides], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def transform(data: Path) -> float:
    """Images per second of the usual transforms on one core, up to the tensor that a loader would batch."""
    usual = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    images = CIFAR10(data, transform=transforms.Compose([*usual, transforms.RandomErasing(p=1)]))
    started = time.perf_counter()
    for row in range(TRANSFORMED):
        images[row]
    return TRANSFORMED / (time.perf_counter() - started)


def main() -> None:
    data = Path(os.environ.get("FASTCONV_DATA", "data"))
    if len(sys.argv) > 1:  # a process of its own, for its own peak memory
        print(*write(data, int(sys.argv[1])))
        return
    for number in range(ROUNDS):
        for epochs in EPOCHS:
            name = f"{epochs} epochs"
            if SECONDS.lacks(number, name) or MEMORY.lacks(number, name):
                command = [sys.executable, __file__, str(epochs)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                seconds, megabytes = map(float, printed)
                SECONDS.add(number, name, seconds / epochs)
                MEMORY.add(number, name, megabytes)
                if epochs in SPEEDS:
                    SPEED.add(number, SPEEDS[epochs], epochs * 50_000 / seconds / os.cpu_count())
        if SPEED.lacks(number, PER_IMAGE):
            SPEED.add(number, PER_IMAGE, transform(data))
        if number < PARTS_ROUNDS and CPU.lacks(number, WHOLE, LARGEST):
            with tempfile.TemporaryDirectory(dir=data) as root:
                CPU.add(number, WHOLE, cpu_seconds(data, root))
            with tempfile.TemporaryDirectory(dir=data) as root:
                parts = [cpu_seconds(data, root, f"part={part}", f"parts={PARTS}") for part in range(PARTS)]
                CPU.add(number, LARGEST, max(parts))
    SPEED.show(
        counterparts={SPEEDS[25]: SPEEDS[25]},
        note="fastconv: 5 epochs (0.8 GB) written to disk with sha256 sums, on all cores; 25 epochs are 3.9 GB, and the"
        " disk takes part of the time.",
    )
    SECONDS.show()
    MEMORY.show()
    share = CPU.ratio(WHOLE, LARGEST)
    CPU.show(note=f"The largest part takes {share:.2f} of one process (median over the rounds); they run one by one.")


if __name__ == "__main__":
    main()
