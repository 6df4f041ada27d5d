"""What each technique of the article is worth on Fashion-MNIST: python benchmarks/ablations.py [folder for the runs]

The shipped sweeps experiment=ablation_*, three seeds each, 100 s a run, one core: about 100 minutes. Finished runs are
kept in the folder, and a stopped one goes on.

DavidNet has an eighth of its width here, so that one core without bf16 gets through nearly two epochs in the time.
"""

import subprocess
import sys
from pathlib import Path

ABLATIONS = ("augment", "schedule", "all", "stream")
SETTINGS = ("dataset=fashion_mnist", "model.width=8", "trainer.num_threads=1")


def main(runs: str = "outputs/ablations", *settings: str) -> None:
    for ablation in ABLATIONS:
        folder = Path(runs, ablation)
        command = [sys.executable, "-m", "fastconv.train", f"experiment=ablation_{ablation}"]
        subprocess.run([*command, f"sweep.resume={folder}", *(settings or SETTINGS)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
