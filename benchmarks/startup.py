"""Times start-up: --help against a minimal Hydra program, and the first training step.

python benchmarks/startup.py          about 2 minutes; the data sets are looked for in FASTCONV_DATA
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measurements import Table

ROUNDS = 7
HELP = Table("startup", "The help", "s", ours="fastconv.train --help", less_is_better=True)
MINIMAL = "a minimal @hydra.main program's --help"
FIRST_STEP = Table("first_step", "From the command to the end of the first training step", "s")
PROGRAM = """
import hydra
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore

@dataclass
class Config:
    seconds: float = 1000.0

ConfigStore.instance().store(name="config", node=Config)

@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config):
    print(config.seconds)

main()
"""


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - started


def first_step() -> float:
    """Seconds until a run reports the first of its ten steps; stream and speed profile are cached."""
    with tempfile.TemporaryDirectory() as outputs:
        overrides = ["dataset=cifar10", "budget.seconds=null", "schedule.max_epochs=0.1024", f"outputs={outputs}"]
        started = time.perf_counter()
        command = [sys.executable, "-u", "-m", "fastconv.train", *overrides]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if "epoch 0.01" in line:
                    spent = time.perf_counter() - started
                    process.kill()
                    return spent
    raise RuntimeError("no step was seen")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "minimal.py")
        program.write_text(PROGRAM)
        for number in range(ROUNDS):
            if HELP.lacks(number, HELP.ours, MINIMAL):
                HELP.add(number, HELP.ours, seconds("-m", "fastconv.train", "--help"))
                HELP.add(number, MINIMAL, seconds(str(program), "--help"))
    if FIRST_STEP.lacks(ROUNDS - 1, "CIFAR-10"):
        first_step()  # fills the caches
    for number in range(ROUNDS):
        if FIRST_STEP.lacks(number, "CIFAR-10"):
            FIRST_STEP.add(number, "CIFAR-10", first_step())
    HELP.show()
    FIRST_STEP.show(note="Stream and speed profile cached; the step itself is part of it.")


if __name__ == "__main__":
    main()
