"""The wheel: complete, and working from any folder without the checkout."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import REPOSITORY


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


@pytest.mark.parametrize("name", ["train", "precompute", "compare", "lr_find"])
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
