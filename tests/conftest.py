"""What several test modules need: the commands in this process, trained networks, small streams, official data."""

import functools
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from harness import OFFICIAL_DATA, OFFICIAL_FOLDERS, SMALL, Ended, SimulatedTime, noise, only_run, run_command, spec_of

from fastconv.data import download
from fastconv.data.dataset import ImageData
from fastconv.data.loading import load
from fastconv.data.stream import remote
from fastconv.data.stream import spec as stream
from fastconv.data.stream.spec import StreamSpec
from fastconv.data.stream.writer import write_stream
from fastconv.kernels.winograd import use_winograd

# Lightning imports gcsfs, which else would ask Google, beyond this machine, what kind of bucket each one is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# It puts colours into what commands print, even where tests read it.
os.environ.pop("FORCE_COLOR", None)

MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks gain nothing from a second thread, and lose much when two of them share a busy machine."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
    gc.freeze()  # half a million objects of the libraries, which the collector would walk again and again
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def no_bf16() -> Iterator[None]:
    """Processors with fast bf16 choose it by themselves; tests compute the same numbers on all of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            patch.setattr(torch.cpu, name, lambda: False)
        yield


@pytest.fixture(autouse=True)
def direct_convolutions() -> Iterator[None]:
    """A command sets whether its process uses Winograd's convolutions; the next test begins with direct ones."""
    yield
    use_winograd(False)


@pytest.fixture
def command(tmp_path: Path, digits_root: Path) -> Callable[..., Ended]:
    """`run_command` from an empty folder, with a data folder that has the digits."""
    return functools.partial(run_command, tmp_path, digits_root)


@pytest.fixture
def simulated_time(monkeypatch: pytest.MonkeyPatch) -> SimulatedTime:
    """The clocks of commands in this process read a simulated time: budgets end alike on any machine, however busy."""
    time = SimulatedTime()
    monkeypatch.setattr("fastconv.budget.clock.now", time)
    return time


@pytest.fixture
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which fastconv keeps code that it has built for the user; it is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastconv"


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the digits are decoded."""
    root = tmp_path_factory.mktemp("data")
    load("digits", root)
    return root


@pytest.fixture
def digits_here(digits_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an empty folder the working folder, with the digits as the data."""
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Fills a folder once for all processes of a test session, in the first that asks for its name."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, whole = base / "made" / name, base / "made" / f"{name}.whole"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(base / "made" / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def davidnet_run(made_once: MadeOnce, digits_root: Path) -> Path:
    """The folder of a run that its budget ends, in simulated time, after about 200 steps; with figures.

    What it printed is in out.txt. Copy the folder before you change it.
    """
    overrides = ("dataset=digits", *SMALL, "budget.seconds=5", "schedule.max_epochs=null", "validate.every=3",
                 "figures=true")  # fmt: skip

    def train(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastconv.budget.clock.now", SimulatedTime())
            ended = run_command(folder, digits_root, "train", *overrides)
        assert ended.code == 0, ended.err
        (only_run(folder) / "out.txt").write_text(ended.out)

    return only_run(made_once("davidnet", train))


@pytest.fixture(scope="session")
def airbench_run(made_once: MadeOnce, digits_root: Path) -> Path:
    """The folder of a run of another network, optimizer and schedule. Copy it before you change it."""
    overrides = ("dataset=digits", "model=airbench", "model.widths=[8,16,16]", "optimizer=muon", "batch_size=64",
                 "micro_batch_size=64", "budget.seconds=null", "schedule.max_epochs=8", "augment=none")  # fmt: skip

    def train(folder: Path) -> None:
        ended = run_command(folder, digits_root, "train", *overrides)
        assert ended.code == 0, ended.err

    return only_run(made_once("airbench", train))


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


@pytest.fixture
def patient_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries, and all the time that a shard needs, however busy the machine."""
    monkeypatch.setattr(download, "PAUSES", (0.001, 0.001, 0.001, 0.001))
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 60)


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
