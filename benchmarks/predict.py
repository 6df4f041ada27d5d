"""python -m fastconv.predict against a bare loop over arrays: python benchmarks/predict.py [davidnet]

With the network of most runs, or, without a name, one of 32-128-128 filters, beside which decoding weighs more.
Some minutes; CIFAR-10 is looked for in FASTCONV_DATA. The bare loop has the images in memory and does nothing but
forward passes of the same network, in the same batches; predict finds, reads and decodes 50,000 pngs and writes a csv.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measurements import Table
from PIL import Image

import fastconv
from fastconv.data.dataset import BATCH_SIZE
from fastconv.data.loading import load

ROUNDS = 2
SHORT = ("schedule.max_epochs=0.1", "budget.seconds=null", "validate.on=none", "figures=false")
SMALL = ("model=airbench", "model.widths=[32,128,128]", "optimizer=muon")


def predict(run: Path, folder: Path, out: Path) -> tuple[float, float]:
    """Seconds, its start and the reading of the network left out, and MB at most."""
    # What it starts with is timed on a single image, and taken away.
    spent = []
    for images in (folder, next(folder.iterdir())):
        started = time.perf_counter()
        command = [sys.executable, "-m", "fastconv.predict", f"run={run}", f"images={images}", f"out={out}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        spent.append(time.perf_counter() - started)
    return spent[0] - spent[1], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3


def bare(run: Path, images: np.ndarray) -> float:
    """Seconds of forward passes alone."""
    predictor = fastconv.load(run)
    network, device = predictor._network, predictor._device
    started = time.perf_counter()
    with torch.inference_mode(), device.autocast():
        for start in range(0, len(images), BATCH_SIZE):
            network(torch.from_numpy(images[start : start + BATCH_SIZE]).to(device.kind)).argmax(1).cpu()
    return time.perf_counter() - started


def main(name: str = "") -> None:
    network, title = ((), "DavidNet") if name == "davidnet" else (SMALL, "A network of 32-128-128 filters")
    train, _ = load("cifar10", Path(os.environ.get("FASTCONV_DATA", "data")))
    images = np.array(train.images)
    table = Table(
        "predict_davidnet" if name else "predict",
        "Classifying 50,000 CIFAR-10 images",
        "images/s",
        ours="python -m fastconv.predict",
    )
    memory = []
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside, "images")
        folder.mkdir()
        for at, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{at:05}.png")
        command = [
            sys.executable,
            "-m",
            "fastconv.train",
            "dataset=cifar10",
            *network,
            *SHORT,
            f"outputs={aside}",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = next(Path(aside, "cifar10").iterdir())
        for number in range(ROUNDS):
            if table.lacks(number, "python -m fastconv.predict", "bare loop"):
                seconds, most = predict(run, folder, Path(aside, "out.csv"))
                memory.append(most)
                table.add(number, "python -m fastconv.predict", len(images) / seconds)
                table.add(number, "bare loop", len(images) / bare(run, images))
    about = f"At most {max(memory):,.0f} MB of memory, whatever the number of images." if memory else ""
    table.show(note=f"{title}; the time to start and to read it is left out. {about}".strip())


if __name__ == "__main__":
    main(*sys.argv[1:2])
