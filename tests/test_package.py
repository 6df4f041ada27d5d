"""The wheel: complete, and working from any folder without the checkout."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from harness import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_the_code_and_the_configs(site):
    def under(folder, suffix):
        return {path.relative_to(folder) for path in folder.rglob(f"*{suffix}")}

    assert under(site / "fastconv" / "conf", ".yaml") == under(REPOSITORY / "conf", ".yaml")
    assert under(site / "fastconv", ".py") == under(REPOSITORY / "fastconv", ".py")
    (metadata,) = site.glob("fastconv-*.dist-info/METADATA")
    assert "Requires-Python: >=3.11" in metadata.read_text()


SCRIPT = """
import contextlib, importlib, io, sys
import numpy as np, fastconv
from sklearn.datasets import load_digits

print(fastconv.__file__)
images = (load_digits().images * 15).astype(np.uint8)
small = ("model.widths=[4,8,8]", "batch_size=64", "schedule.max_epochs=1", "figures=false")
predictor = fastconv.fit((images, load_digits().target), 60, *small)
print("predicted", len(predictor.predict(list(images[:5]))))
for name in sys.argv[1:]:
    for option in ("--help", "--cfg=job")[: 1 + (name in ("train", "explain"))]:
        sys.argv = [name, option]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            importlib.import_module(f"fastconv.{name}").main()
        print(name, option, len(out.getvalue().splitlines()))
"""
COMMANDS = ("train", "precompute", "lr_find", "audit", "evaluate", "explain", "compare", "predict", "export")


def test_the_installed_package_works_from_any_folder(site, tmp_path):
    """It trains and predicts from Python, and its commands find their configs."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment.pop("FASTCONV_DATA", None)

    def python(*command):
        ended = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    out = python("-c", SCRIPT, *COMMANDS)
    assert out.startswith(str(site))
    assert "predicted 5\n" in out
    shown = dict(re.findall(r"^(\w+ --[\w=]+) (\d+)$", out, re.M))
    for name in COMMANDS:
        assert int(shown[f"{name} --help"]) >= 2, name
    assert {"train --cfg=job", "explain --cfg=job"} < set(shown)
