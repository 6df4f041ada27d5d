"""The effect of augmentation on accuracy and heatmaps of each data set.

python benchmarks/augmentation_effect.py [folder for the runs]

Three seeds with and without augmentation, 150 s each: about an hour on two cores, with the reports. Finished runs are
kept in the folder, and a stopped one goes on. The figures, the tables and the results go to
benchmarks/results/augmentation_effect; the pages, of more than 1 MB each, stay with the runs.

DavidNet has a quarter of its width here (an eighteenth of the parameters), so that two cores without bf16 get through
more than an epoch in the time.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from measurements import RESULTS

DATASETS = ("fashion_mnist", "cifar10", "mnist")
KEPT = ("effect.png", "measures.png", "measures.csv", "images.csv")
SETTINGS = ("model.width=16",)


def main(runs: str = "outputs/augmentation_effect", *settings: str) -> None:
    for dataset in DATASETS:
        folder = Path(runs, dataset)
        command = [sys.executable, "-m", "fastconv.train", f"dataset={dataset}", "experiment=augmentation_effect"]
        subprocess.run([*command, f"sweep.resume={folder}", *(settings or SETTINGS)], check=True)
        kept = RESULTS / "augmentation_effect" / dataset
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(folder / f"explain-{dataset}" / name, kept / name)
        for job in sorted(folder.glob("[0-9]*")):
            shutil.copy(job / "results.json", kept / f"results-{job.name}.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
