"""What tests of several packages share: commands run in this process or another, small runs, streams and images."""

import csv
import dataclasses
import errno
import hashlib
import importlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from fastconv.budget import benchmark
from fastconv.budget.benchmark import SpeedProfile
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.dataset import ImageData
from fastconv.data.stream.spec import StreamSpec
from fastconv.models import build_model
from fastconv.models.weights import weights_digest
from fastconv.runs.folder import is_finished
from fastconv.runs.results import Results
from fastconv.system.distributed import VARIABLE
from fastconv.training.module import ImageClassifier

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
OFFICIAL_DATA = Path(os.environ.get("FASTCONV_DATA", REPOSITORY / "data")).absolute()
OFFICIAL_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py"}
STANDARD = Policy(Crop(2), Flip(0.5), Cutout(3))
# `python -m fastconv.train`, disturbed or watched.
SCRIPT = REPOSITORY / "tests" / "faults" / "disturbed.py"
SMALL = ("model.width=8", "batch_size=64", "micro_batch_size=32", "trainer=cpu", "trainer.precision=fp32")
SHORT = (*SMALL, "budget.seconds=null", "schedule.max_epochs=0.5")
# A run that is stopped and goes on, and its steps.
RUN = (
    "dataset=digits",
    *SMALL,
    "budget.seconds=null",
    "schedule.max_epochs=1.2",
    "validate.every=0.5",
    "checkpoint.every=null",
    "stream=online",
)
STEPS = round(1.2 * 1438 / 64)
# A report of heatmaps in seconds.
QUICK = (
    "per_class=1",
    "errors=1",
    "correct=1",
    "candidates=200",
    "control_images=2",
    "sensitivity_images=1",
    "steps=2",
    "perturbations=2",
)


class SimulatedTime:
    """The time of whole commands (see conftest's `simulated_time`): each reading takes `tick` seconds, no more.

    A step reads the clock about ten times, so that a budget ends after about as many steps on any machine. Only the
    thread that made the clock moves it: other threads read it the more often the busier the machine is.
    """

    def __init__(self, tick: float = 0.003) -> None:
        self.tick, self.seconds, self._thread = tick, 0.0, threading.get_ident()

    def __call__(self) -> float:
        if threading.get_ident() == self._thread:
            self.seconds += self.tick
        return self.seconds


@contextmanager
def faulty_benchmarks(seed: int, factors: Sequence[float] = (1000.0, 0.1)) -> Iterator[None]:
    """Within the block, each benchmark finds a network slower than it is, by a random one of these factors."""
    draw, measure = random.Random(seed), benchmark.measure_speed

    def measured(*given: Any) -> SpeedProfile:
        profile, factor = measure(*given), draw.choice(factors)
        return dataclasses.replace(
            profile,
            step_seconds=factor * profile.step_seconds,
            score_seconds=factor * profile.score_seconds,
            update_seconds=factor * profile.update_seconds,
        )

    with mock.patch.object(benchmark, "measure_speed", measured):
        yield


class Unseen:
    """A split of so many images, at none of which anything may look."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"looked at {name} of the images")


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
    if name == "train" and not any("figures" in each or each[:2] == "--" for each in overrides):
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


def noise(samples: int, channels: int) -> ImageData:
    """Images uint8 [samples, 9, 11, channels] with three classes."""
    generator = np.random.default_rng(samples)
    pixels = generator.integers(0, 256, (samples, 9, 11, channels), np.uint8)
    return ImageData("noise", pixels, generator.integers(0, 3, samples), ("a", "b", "c"), digest="0" * 64)


def spec_of(data: ImageData, policy: Policy = STANDARD, seed: int = 3) -> StreamSpec:
    """The stream of some images."""
    channels = data.images.shape[3]
    colour = ((0.2,), (0.2, 0.5, 0.8))[channels == 3]
    return StreamSpec(
        data.name, data.digest, data.classes, data.images.shape[1:], len(data), colour, colour, policy, seed
    )


def sha256s(root: Path) -> dict[str, str]:
    """The sha256 of each shard below a folder, by its path there."""
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.tar")}


def start(folder, data, *overrides, launcher=(), script=(str(SCRIPT),), **environment):
    """A training process in a folder, with its output kept there; or what a launcher starts by this command."""
    settings = {**os.environ, "FASTCONV_DATA": str(data), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    settings.pop("FASTCONV_FIRST_RANK", None)
    with (folder / "out.txt").open("a") as out, (folder / "err.txt").open("w") as err:
        command = [*launcher, sys.executable, *script, *overrides]
        return subprocess.Popen(command, cwd=folder, env={**settings, **environment}, stdout=out, stderr=err)


def finish(folder, data, *overrides, **environment):
    """Run a training process to its end; return its exit code and what it said on standard error."""
    code = start(folder, data, *overrides, **environment).wait(600)
    return code, (folder / "err.txt").read_text()


def alive(process: int) -> bool:
    """Whether a process has not ended; one that its parent has not asked for yet has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def rows(folder, rank):
    """What the processes of a rank recorded, one after the other."""
    files = sorted(folder.glob(f"{rank}-*.csv"), key=lambda path: path.stat().st_mtime)
    return [[row for row in csv.DictReader(path.open()) if row["ended"]] for path in files]


def steps_alike(folder: Path, ranks: int) -> list[int]:
    """Steps after which all ranks of a run, which were started once, have recorded the same digests; each must be."""
    files = sorted(folder.glob("*.csv"))
    assert [int(path.stem.split("-")[0]) for path in files] == list(range(ranks))
    # One that was killed may have recorded fewer.
    together = list(zip(*(list(csv.DictReader(path.open())) for path in files), strict=False))
    for first, *others in together:
        assert all(other == first for other in others), f"ranks differ after step {first['step']}"
    return [int(first["step"]) for first, *_ in together]


def wait_for_steps(record, steps, ranks=2):
    """Wait until so many ranks have recorded some steps; return the process of each."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        files = list(record.iterdir())
        if len(files) == ranks and all(path.read_text().count("\n") > steps for path in files):
            return {int(rank): int(process) for rank, process in (path.stem.split("-") for path in files)}
        time.sleep(0.1)
    raise AssertionError("the ranks did not train")


def only_run(outputs: Path) -> Path:
    (run,) = (path.parent for path in outputs.rglob("config.yaml"))
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


def same_weights(*runs: Path) -> bool:
    first, *others = map(weights, runs)
    return all(torch.equal(first[name], other[name]) for other in others for name in first)


def stop_at(monkeypatch, method, call, number=signal.SIGTERM):
    """Send this process a signal in a certain call of a method of the module."""
    original, calls = getattr(ImageClassifier, method), 0

    def stopping(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(ImageClassifier, method, stopping)


def by_hand(run, images):
    """Probabilities from the checkpoint, with nothing of fastconv but the network."""
    stored = torch.load(run / "last.ckpt", weights_only=True)
    network = stored["network"]
    model = build_model(network["model"], network["shape"][2], len(network["classes"]), **network["settings"])
    model.load_state_dict({key.removeprefix("model."): value for key, value in stored["state_dict"].items()})
    pixels = torch.tensor(images.astype(np.float32) / 255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(network[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        return model.eval()((pixels - mean) / std).softmax(1).numpy()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


class FailingFile:
    """A file on a disk that fails: half of the first write arrives, then the system refuses."""

    def __init__(self, file, error):
        self._file, self._error = file, error

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        raise self._error

    writelines = write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


@contextmanager
def failing_writes(pattern, number, first=1, last=None):
    """Within the block, the first to last opening for writing of a file whose path matches fails with a system error.

    A full or broken disk fails while it is written to, any other when the file is opened. Yields the paths that failed.
    """
    original, count, failed = io.open, 0, []

    def opening(file, mode="r", *arguments, **settings):
        nonlocal count
        if not isinstance(file, int) and set(mode) & set("wax+") and re.search(pattern, os.fsdecode(file)):
            count += 1
            if first <= count <= (last or count):
                failed.append(os.fsdecode(file))
                if number in (errno.ENOSPC, errno.EIO):
                    return FailingFile(
                        original(file, mode, *arguments, **settings), OSError(number, os.strerror(number))
                    )
                raise OSError(number, os.strerror(number), os.fsdecode(file))
        return original(file, mode, *arguments, **settings)

    with mock.patch("io.open", opening), mock.patch("builtins.open", opening):
        yield failed


def require_told_or_whole(ended, outputs):
    """A command that trains ended with one line and exit code 1, or its one run is whole; nothing is half-written."""
    assert not [path for path in outputs.rglob("*") if ".part" in path.name]
    runs = [path.parent for path in outputs.rglob("results.json")]
    if ended.code:
        *warned, line = ended.err.splitlines()
        assert ended.code == 1
        assert line.startswith("fastconv: "), ended.err
        assert all(re.match("fastconv: .*(The run goes on|The run itself is whole)$", each) for each in warned), warned
        assert not any(is_finished(run) for run in runs)
        return
    (run,) = runs
    assert is_finished(run)
    assert Results.read(run).weights_digest == weights_digest(weights(run))
    with (run / "metrics.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) == Results.read(run).steps


class QuietFolder(SimpleHTTPRequestHandler):
    """Serves a folder, `functools.partial(QuietFolder, directory=...)`, and prints nothing."""

    def log_message(self, *_):
        pass


@contextmanager
def served(handler: Callable[..., BaseHTTPRequestHandler], **attributes: object) -> Iterator[ThreadingHTTPServer]:
    """A server on this machine that answers in threads while the block runs; its `url`, and further attributes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        vars(server).update(attributes)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def write_snippets(folder: Path) -> list[Path]:
    """Write the files that docs/extending.md shows, each named by its first line, below a folder."""
    text = (REPOSITORY / "docs" / "extending.md").read_text()
    written = []
    for name, content in re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", text, re.M | re.S):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        written.append(path)
    return written
