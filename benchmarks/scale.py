"""Memory and seconds of whole commands on many images, many classes and many runs.

python benchmarks/scale.py                      about an hour on two cores, and 12 GB in the folder of temporary files
python benchmarks/scale.py images=1000,10000    only these rows

Data sets are tars of raw 32x32 images of noise (.ppm). Seconds depend on what else the machine does: beside them are
those of the processor, and those that copying the arrays takes.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measurements import RESULTS, append, provenance, read, table_head

from fastconv.data.stream.shards import tar_header
from fastconv.runs.results import git_commit

IMAGES = (1_000, 10_000, 100_000, 1_000_000)
CLASSES, IMAGES_PER_CLASS = (5_000,), 20
RUNS = (100, 5_000)
IMAGES_PER_TAR = 10_000
SMALL = ("model.width=8", "batch_size=64", "micro_batch_size=32", "trainer=cpu", "budget.seconds=null",
         "schedule.max_epochs=1", "stream.epochs=1", "logger=csv")  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """Seconds of a process by the clock and of the processor, and its peak memory in MB, mapped files included."""

    seconds: float
    processor: float
    peak_mb: float


def spent(command: list[str], folder: Path) -> Spent:
    """Run a command and return what it took. Raises RuntimeError if it fails."""
    started = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed: {(folder / 'output.txt').read_text()[-2000:]}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Spent(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, kilobytes / 1000)


def write_tars(folder: Path, images: int, classes: int) -> str:
    """Write tars of images of noise, each with a label; return the pattern that names them."""
    folder.mkdir()
    random = np.random.default_rng(0)
    headers = {size: tar_header("0" * 12, size) for size in (13 + 3072, *range(1, 6))}
    for number, start in enumerate(range(0, images, IMAGES_PER_TAR)):
        with (folder / f"{number:04d}.tar").open("wb") as file:
            for at in range(start, min(start + IMAGES_PER_TAR, images)):
                image = b"P6 32 32 255\n" + random.bytes(3072)
                for ending, content in (("ppm", image), ("cls", str(at % classes).encode())):
                    file.write(named(headers[len(content)], f"{at:08d}.{ending}".encode()))
                    file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    return str(folder / "*.tar")


def named(header: bytes, name: bytes) -> bytes:
    """A header of `tar_header` with another name of the same length: making each anew would take longest."""
    total = int(header[148:154], 8) + sum(name) - sum(header[: len(name)])
    return name + header[len(name) : 148] + f"{total:06o}".encode() + header[154:]


def write_runs(folder: Path, runs: int) -> None:
    """Write the folders of finished runs, copies of one with other scores: 500 settings at most, several seeds each."""
    random = np.random.default_rng(0)
    kept = next((RESULTS / "article").glob("*/cifar10-augmented-0"))
    content = json.loads((kept / "results.json").read_text())
    for number in range(runs):
        run = folder / f"{number:05d}"
        run.mkdir(parents=True)
        setting, seed = divmod(number, max(1, runs // 500))
        content |= {"seed": seed, "accuracy": float(0.9 + random.normal() / 100)}
        content["seconds_counted"] = 60 + float(random.normal())
        content["hparams"] = {f"augment.setting_{each}": each for each in range(80)}
        content["hparams"] |= {"dataset.name": "mnist", "seed": seed, "optimizer.max_lr": setting / 100}
        (run / "results.json").write_text(json.dumps(content))
        (run / "config.yaml").write_text(f"seed: {seed}\n")
        shutil.copy(kept / "metrics.csv", run)


def copying(folder: Path) -> float:
    """Seconds to copy the arrays of a data set."""
    (arrays,) = (folder / "data" / "arrays").glob("tars-*")
    started = time.perf_counter()
    shutil.copytree(arrays, folder / "copy")
    seconds = time.perf_counter() - started
    shutil.rmtree(folder / "copy")
    return seconds


def keep(row: dict[str, object], measured: Spent, reference: float | None = None) -> None:
    """Add a row to the table."""
    values = {"seconds": f"{measured.seconds:.1f}", "processor": f"{measured.processor:.1f}"}
    values |= {"peak_mb": f"{measured.peak_mb:.0f}", "copying": "" if reference is None else f"{reference:.1f}"}
    append(RESULTS / "scale.csv", {**row, **values, **provenance(), "git_commit": git_commit()})
    show()


def measure_data(images: int, classes: int, parent: Path) -> None:
    """Measure arrays, audit, plan and an epoch of the stream of one data set."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        tars = write_tars(folder / "tars", images, classes)
        dataset = ["dataset=webdataset", "dataset.name=tars", f"dataset.train='{tars}'"]
        python = [sys.executable, "-m"]
        where = [f"data={folder / 'data'}", f"outputs={folder / 'outputs'}", f"stream.root={folder / 'streams'}"]
        load = (
            "from pathlib import Path; from fastconv.data.configs import Dataset;"
            " from fastconv.data.loading import load;"
            f" load(Dataset(name='tars', source='webdataset', train={tars!r}), Path('data'))"
        )
        steps = {
            "arrays": [sys.executable, "-c", load],
            "audit": [*python, "fastconv.audit", *dataset, *where],
            "plan": [*python, "fastconv.train", *dataset, *where, *SMALL, "dry_run=true"],
            "epoch of the stream": [*python, "fastconv.precompute", *dataset, *where, *SMALL],
        }
        reference = None
        for step, command in steps.items():
            measured = spent(command, folder)
            reference = reference or copying(folder)
            keep({"step": step, "images": images, "classes": classes, "runs": ""}, measured, reference)


def measure_compare(runs: int, parent: Path) -> None:
    """Measure the table and the page of many runs."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        write_runs(folder / "runs", runs)
        command = [sys.executable, "-m", "fastconv.compare", "runs=runs"]
        for step, more in (("compare, table", []), ("compare, page", ["page=compare.html"])):
            keep({"step": step, "images": "", "classes": "", "runs": runs}, spent([*command, *more], folder))


def show() -> None:
    """Write the table of all rows."""
    lines = ["# Many images, many classes, many runs", ""]
    names = ["", "images", "classes", "runs", "peak memory, MB", "processor s", "s", "s to copy the arrays"]
    lines += table_head(names)
    rows = read(RESULTS / "scale.csv")
    for row in rows:
        counts = [f"{int(row[key]):,}" if row[key] else "" for key in ("images", "classes", "runs")]
        values = [f"{float(row['peak_mb']):,.0f}", *(row[key] for key in ("processor", "seconds", "copying"))]
        lines.append(f"| {row['step']} | {' | '.join([*counts, *values])} |")
    devices = "; ".join(dict.fromkeys(f"{row['device']}; {row['date']}; {row['versions']}" for row in rows))
    note = (
        "Images are 32x32x3, raw, in tars. Memory is that of the whole process at its peak, with mapped files as far as"
        " they are in use; it is never below the 530 MB of the process that measures. The machine was shared, so"
        " seconds are indicative only: those of the processor, all cores together, depend less on what else runs."
    )
    (RESULTS / "scale.md").write_text("\n".join([*lines, "", f"{devices}. {note}"]) + "\n")


def chosen(key: str, default: tuple[int, ...]) -> list[int]:
    """The values of `key=1,2` on the command line; the default without any argument."""
    given = [each.partition("=")[2] for each in sys.argv[1:] if each.startswith(f"{key}=")]
    return [int(each) for each in given[0].split(",")] if given else list(default) if len(sys.argv) == 1 else []


def main() -> None:
    parent = Path(os.environ.get("TMPDIR", tempfile.gettempdir()))
    for runs in chosen("runs", RUNS):
        measure_compare(runs, parent)
    for images in chosen("images", IMAGES):
        measure_data(images, 10, parent)
    for classes in chosen("classes", CLASSES):
        measure_data(IMAGES_PER_CLASS * classes, classes, parent)


if __name__ == "__main__":
    main()
