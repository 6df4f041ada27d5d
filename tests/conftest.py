"""What several test modules need: the commands in this process, small streams, and the official data sets if here."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import OFFICIAL_DATA, OFFICIAL_FOLDERS, Ended, noise, run_command, spec_of

from fastconv.data.dataset import ImageData
from fastconv.data.sources.builtin import load
from fastconv.data.stream import spec as stream
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.stream.writer import write_stream


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
