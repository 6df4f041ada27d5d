"""The wheel: complete, and working from any folder without the checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import numpy as np
import pytest
from harness import QUICK, REPOSITORY
from PIL import Image

import fastconv


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
    text = metadata.read_text()
    assert "Requires-Python: >=3.11" in text
    assert f"\nVersion: {fastconv.__version__}\n" in text
    assert f"\nversion: {fastconv.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()


def test_the_wheel_of_the_source_distribution_is_the_same(site, tmp_path):
    def build(source, target):
        command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(tmp_path)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)

    build(REPOSITORY, "sdist")
    (archive,) = tmp_path.glob("fastconv-*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
        top = {name.split("/")[1] for name in content.getnames()}
    assert {"benchmarks", "conf", "docs", "fastconv", "tests", "Makefile", "mkdocs.yml", "requirements.lock"} <= top
    assert {"CONTRIBUTING.md", "README.md"} <= top, "its links lead somewhere, and its tests run"
    build(tmp_path / archive.name.removesuffix(".tar.gz"), "wheel")
    (ours,), (wheel,) = tmp_path.glob("*.whl"), site.parent.glob("*.whl")
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        assert all(one.read(name) == other.read(name) for name in one.namelist())


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


SMALL = (
    "model=airbench 'model.widths=[4,8,8]' batch_size=8 micro_batch_size=8 budget.seconds=null schedule.max_epochs=2"
)
# What is added to a command for it to be quick.
QUICKER = {"train": SMALL, "explain": " ".join(QUICK) + " method=grad_cam", "export": "samples=4"}


@pytest.mark.slow
def test_six_commands_from_an_empty_environment(site, tmp_path):
    """A stranger's: the wheel is installed, and each command's line `next:` is the following one."""
    (wheel,) = site.parent.glob("*.whl")
    env, work = tmp_path / "env", tmp_path / "work"
    venv.create(env, symlinks=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(env / "bin" / "python"),
        "install",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (packages,) = (env / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # the dependencies, but no editable fastconv
    generator = np.random.default_rng(0)
    for at in range(48):
        path = work / "my photos" / "ab"[at % 2] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    environment = {"PATH": f"{env / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def shell(line):
        ended = subprocess.run(line, shell=True, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"
        return ended.stdout

    assert shell("python -c 'import fastconv; print(fastconv.__file__)'").startswith(str(packages))
    line, called = "fastconv audit dataset=image_folder 'dataset.root=my photos'", []
    while line:
        called.append(line.split()[1])
        last = shell(f"{line} {QUICKER.get(called[-1], '')}").splitlines()[-1]
        line = last.removeprefix("next: ") if last.startswith("next: ") else ""
    assert called == ["audit", "train", "evaluate", "explain", "export", "predict"]
    assert len((work / "predictions.csv").read_text().splitlines()) == 1 + 48
    (run,) = (path.parent for path in work.rglob("report.html"))
    assert {"last.ckpt", "log.txt", "evaluation.json", "model.onnx", "model.pt2"} <= {
        path.name for path in run.iterdir()
    }
