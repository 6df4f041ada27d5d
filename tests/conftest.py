"""What several test modules need: the commands in this process, small streams, and the official data sets if here."""

import functools
import hashlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from fastconv.data import stream
from fastconv.data.images import ImageData
from fastconv.data.plan import Crop, Cutout, Flip, Policy
from fastconv.data.sources import load
from fastconv.data.stream import StreamSpec
from fastconv.data.writer import write_stream
from fastconv.ranks import VARIABLE

REPOSITORY = Path(__file__).parent.parent
OFFICIAL_DATA = Path(os.environ.get("FASTCONV_DATA", REPOSITORY / "data")).absolute()
OFFICIAL_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py"}
STANDARD = Policy(Crop(2), Flip(0.5), Cutout(3))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def run_command(folder: Path, data: Path, name: str, *overrides: str) -> Ended:
    """Run `python -m fastconv.NAME overrides ...` in this process, from a folder, with a data folder.

    Runs draw no figures unless asked for with figures=true: they would take most of a short run's time.
    """
    if name == "train" and "figures=true" not in overrides and not any(each[:2] == "--" for each in overrides):
        overrides = (*overrides, "figures=false")
    main = importlib.import_module(f"fastconv.{name}").main
    before, code, out, err = os.getcwd(), 0, io.StringIO(), io.StringIO()
    environment = {"FASTCONV_DATA": str(data), "COLUMNS": "160"}
    with mock.patch.dict(os.environ, environment), mock.patch.object(sys, "argv", [name, *overrides]):
        for variable in ("HYDRA_FULL_ERROR", VARIABLE):
            os.environ.pop(variable, None)
        os.chdir(folder)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(before)
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks gain nothing from a second thread, and lose much when two of them share a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path, digits_root: Path) -> Callable[..., Ended]:
    """`run_command` from an empty folder, with a data folder that has the digits."""
    return functools.partial(run_command, tmp_path, digits_root)


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the digits are decoded."""
    root = tmp_path_factory.mktemp("data")
    load("digits", root)
    return root


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A data folder with the official files of a data set; skips where they are not here."""

    def root(name: str) -> Path:
        files = OFFICIAL_DATA / OFFICIAL_FOLDERS[name]
        if not files.is_dir():
            pytest.skip(f"no {files}: set FASTCONV_DATA to the folder of the official files")
        folder = tmp_path_factory.mktemp(name)
        (folder / files.name).symlink_to(files)
        return folder

    return root


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def images(request: pytest.FixtureRequest) -> ImageData:
    """57 images of 9x11 noise, in which every pixel tells where it came from."""
    return noise(57, request.param)


def noise(samples: int, channels: int) -> ImageData:
    """Images uint8 [samples, 9, 11, channels] with three classes."""
    generator = np.random.default_rng(samples)
    pixels = generator.integers(0, 256, (samples, 9, 11, channels), np.uint8)
    return ImageData("noise", pixels, generator.integers(0, 3, samples), ("a", "b", "c"), digest="0" * 64)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 10 images, 3 to a shard: 57 images make 2 shards, both with a part left over."""
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 10)
    monkeypatch.setattr(stream, "BLOCKS_PER_SHARD", 3)


@pytest.fixture
def built(tmp_path: Path, small_blocks: None) -> tuple[ImageData, StreamSpec, Path]:
    """(images, spec, root) of a stream of two epochs on disk."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path, 2)
    return data, spec, tmp_path


def sha256s(root: Path) -> dict[str, str]:
    """The sha256 of each shard below a folder, by its path there."""
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.tar")}


def spec_of(data: ImageData, policy: Policy = STANDARD, seed: int = 3) -> StreamSpec:
    """The stream of some images."""
    channels = data.images.shape[3]
    colour = ((0.2,), (0.2, 0.5, 0.8))[channels == 3]
    return StreamSpec(
        data.name, data.digest, data.classes, data.images.shape[1:], len(data), colour, colour, policy, seed
    )
