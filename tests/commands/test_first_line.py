"""The first line of a command comes before anything slow is imported."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from harness import REPOSITORY

# What takes a tenth of a second or more to import.
SLOW = {"torch", "lightning", "torchvision", "torchmetrics", "scipy", "sklearn", "matplotlib", "pandas", "captum",
        "tensorboard", "rich", "webdataset", "onnx", "onnxruntime", "timm", "mlflow", "wandb"}  # fmt: skip
# Modules that are imported by then, most of them of Python, Hydra, OmegaConf and numpy: 580 to 610.
MOST = 650
COMMANDS = {
    "train": ("dataset=digits",),
    "precompute": ("dataset=digits",),
    "lr_find": ("dataset=digits",),
    "audit": ("dataset=digits",),
    "evaluate": ("run=run",),
    "explain": ("run=run",),
    "predict": ("run=run", "images=run/curves.png"),
    "export": ("run=run",),
    "compare": ("runs=run",),
}
# Runs each command in a process of its own, until it prints its first line.
CODE = """
import json, os, sys

class FirstLine:
    encoding, errors = "utf-8", "strict"

    def write(self, text):
        if text.strip():
            os.write(report, (json.dumps([name, text, sorted(sys.modules)]) + "\\n").encode())
            os._exit(0)

    def flush(self):
        pass

    def isatty(self):
        return False

report = os.dup(1)
for name, arguments in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        sys.stdout = sys.stderr = FirstLine()
        sys.argv = ["fastconv", name, *arguments]
        from fastconv.__main__ import main
        main()
        os._exit(1)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def first_lines(made_once, davidnet_run):
    """By command: what it printed first, and the modules that were imported by then."""

    def run(folder):
        shutil.copytree(davidnet_run, folder / "run")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "FASTCONV_DATA": str(folder / "data")}
        command = [sys.executable, "-c", CODE, json.dumps(COMMANDS)]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        (folder / "lines.jsonl").write_text(ended.stdout)

    lines = (made_once("first_lines", run) / "lines.jsonl").read_text().splitlines()
    return {name: (text, set(modules)) for name, text, modules in map(json.loads, lines)}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_slow_is_imported_before_it(first_lines, name):
    text, modules = first_lines[name]
    assert not SLOW & modules
    assert len(modules) < MOST
    assert "reading" in text
