"""The wheel: complete, and working from any folder without the checkout."""

import os
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


@pytest.mark.parametrize(
    "name", ["train", "precompute", "compare", "lr_find", "audit", "evaluate", "predict", "export"]
)
def test_installed_commands_work_from_any_folder(site, tmp_path, name):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import fastconv; print(fastconv.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site))
    for option in ("--help", "--cfg=job"):
        command = [sys.executable, "-m", f"fastconv.{name}", option]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert len(ended.stdout.splitlines()) >= 2
    assert list(tmp_path.iterdir()) == []


def test_the_installed_package_trains_and_predicts_from_another_folder(site, tmp_path):
    script = (
        "import numpy as np, fastconv\n"
        "from sklearn.datasets import load_digits\n"
        "images = (load_digits().images * 15).astype(np.uint8)\n"
        "small = ('model.widths=[4,8,8]', 'batch_size=64', 'schedule.max_epochs=4', 'figures=false')\n"
        "predictor = fastconv.fit((images, load_digits().target), 60, *small)\n"
        "print('predicted', len(predictor.predict(list(images[:5]))), fastconv.__file__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment.pop("FASTCONV_DATA", None)
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"predicted 5 {site}" in ended.stdout
    run = next((tmp_path / "outputs" / "arrays").iterdir())
    command = [sys.executable, "-m", "fastconv.export", f"run={run}", "format=torch"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (run / "model.pt2").exists()
