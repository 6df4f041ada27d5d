"""Every command that README and docs show, run: on the digits, and as short as settings make it."""

import functools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import PAGES, QUICK, SHORT, QuietFolder, run_command, served, write_snippets
from PIL import Image
from webdataset import TarWriter

from fastconv.data.loading import load

RUN = "2026-11-25_09-00-00-a1b2c3"  # that of the pages
# What needs a cluster is only composed, by test_docs; runs of several processes have tests of their own.
ELSEWHERE = ("hydra/launcher=slurm", "hydra/launcher=joblib", "trainer=ddp")
FETCHING = ("experiment=pretrained",)  # weights, which tests/commands/test_pretrained.py writes itself
SECONDS = 3  # simulated
# Pages whose commands run with every test; those of the others take minutes.
FIRST_PAGES = ("README.md", "extending.md")


def commands() -> list:
    """(name, argument, ...) of each command of the pages, shortened; of those that come to the same only one."""
    found = {}
    for page in sorted(PAGES, key=lambda page: (page.name not in FIRST_PAGES, page.name)):
        marks = () if page.name in FIRST_PAGES else pytest.mark.slow
        for line in sorted(set(re.findall(r"^\$ (python -m fastconv\..+)$", page.read_text(), re.M))):
            if any(word in line for word in (*ELSEWHERE, *FETCHING)):
                continue
            name, *arguments = shlex.split(line, comments=True)[2:]
            name = name.removeprefix("fastconv.")
            arguments = shortened(name, arguments)
            found.setdefault((name, *sorted(arguments)), pytest.param((name, *arguments), marks=marks))
    return list(found.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_root) -> Path:
    """What the pages take for granted: photographs, tars, and runs of them and of a data set."""
    folder = tmp_path_factory.mktemp("reader")
    train, _ = load("digits", Path(digits_root))
    images, labels = np.array(train.images[:240]).repeat(3, 3), train.labels[:240]
    (folder / "photos").mkdir()
    write_snippets(folder)
    tars = {
        name: TarWriter(str(folder / f"{name}.tar")) for name in ("a", "b", "test", "more", "train-000", "train-001")
    }
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "photos" / train.classes[label] / f"{at}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).resize((24, 24)).save(path)
        for name, tar in tars.items():
            if at % len(tars) == list(tars).index(name):
                tar.write({"__key__": f"{at:05}", "png": path.read_bytes(), "cls": int(label)})
    for tar in tars.values():
        tar.close()
    shutil.copy(folder / "photos" / train.classes[labels[0]] / "0.png", folder / "cat.png")
    short = SHORT[:-1]  # with a checkpoint
    assert run_command(folder, digits_root, "train", "dataset=digits", *short, "outputs=made").code == 0
    own = (
        "dataset=image_folder",
        "dataset.root=photos",
        "dataset.image_size=24",
        "batch_size=32",
        "micro_batch_size=32",
    )
    assert run_command(folder, digits_root, "train", *own, *short, "outputs=made").code == 0
    (digits,), (photos,) = (folder / "made" / "digits").iterdir(), (folder / "made" / "photos").iterdir()
    sweep = f"outputs/sweeps/{RUN}"
    for name in (f"cifar10/{RUN}", "a", "b", "c", "d", f"../{sweep}/0", f"../{sweep}/1"):
        copy = Path(shutil.copytree(digits, folder / "outputs" / name))
        if name in ("b", "d", f"../{sweep}/1"):  # the same with another seed
            config, results = copy / "config.yaml", copy / "results.json"
            config.write_text(re.sub(r"^seed: 0$", "seed: 1", config.read_text(), flags=re.M))
            results.write_text(results.read_text().replace('"seed": 0', '"seed": 1'))
    shutil.copytree(photos, folder / "outputs" / "photos" / RUN)
    return folder


@pytest.fixture
def reader(folder, tmp_path) -> Path:
    """A copy of it, for one command."""
    return Path(shutil.copytree(folder, tmp_path / "reader", symlinks=True))


@pytest.fixture
def server(reader):
    """Serves that folder and its streams; its address."""

    with served(functools.partial(QuietFolder, directory=reader)) as server:
        yield server.url


def shortened(name: str, arguments: list[str]) -> list[str]:
    """The same command on the digits, with few seeds, trials and steps."""
    found = []
    for each in arguments:
        each = re.sub(r"^dataset=(cifar10|fashion_mnist|mnist)(,\w+)*$", "dataset=digits", each)
        each = re.sub(r"^seed=0(,\d)+$", "seed=0,1", each).replace("dataset:mnist", "dataset:digits")
        each = re.sub(r"n_trials=\d+", "n_trials=2", each)
        each = re.sub(r"\{000\.\.010\}", "{000..001}", each)
        each = re.sub(r"^stream.epochs=\d+$", "stream.epochs=1", each)
        if not each.startswith(("budget.seconds=", "batch_size=", "micro_batch_size=")):
            found.append(each)
    text = " ".join(found)
    if name in ("train", "lr_find") and "resume=outputs" not in text:
        chosen = "experiment=best" in text
        found += [f"budget.seconds={SECONDS}"] if chosen else ["schedule.max_epochs=0.2", "budget.seconds=60"]
        found += ["figures=false"] if name == "train" else []
        davidnet = not re.search(r"experiment=(best|speedrun)|model=", text)
        found += ["model.width=4"] * davidnet
        found += ["model.widths=[4,8,8]"] if re.search(r"experiment=speedrun|model=airbench", text) else []
        found += ["seed=0"] if re.search("augmentation_effect|ablation", text) else []
        found += ["range_test.steps=40", "batch_size=64", "micro_batch_size=64"] if name == "lr_find" else []
        small = "dataset=digits" in text or "experiment=search" in text
        found += ["batch_size=32", "micro_batch_size=32"] if not chosen and name != "lr_find" else []
        found += ["augment.cutout.size=2"] if "experiment=original" in text else []
        found += ["dataset=digits"] if small and "dataset=" not in text else []
        found += ["sweep.report=none"] if "augmentation_effect" in text else []
        found += ["sweep.trials=2"] if "experiment=search" in text and "sweep.trials" not in text else []
        found += ["dataset.image_size=24"] if re.search("dataset=(image_folder|webdataset)", text) else []
    if name == "explain":
        found += [each for each in QUICK if not ("n_steps" in text and each.startswith("steps="))]
    return found


@pytest.mark.parametrize("line", commands(), ids=range(len(commands())))
def test_a_command_runs(reader, server, digits_root, simulated_time, line):
    name, *arguments = (word.replace("https://example.org", server) for word in line)
    if any(each.startswith("resume=outputs") for each in arguments):
        for ended in ("results.json", "last.ckpt"):
            (reader / arguments[-1].removeprefix("resume=") / ended).unlink()
    if any(each.startswith("stream.root=http") for each in arguments):
        policy = ["dataset=digits", "stream.epochs=1", "stream.root=streams"]
        assert run_command(reader, digits_root, "precompute", *policy).code == 0
    data = digits_root
    if "verify=true" in arguments:
        assert run_command(reader, data, name, *(each for each in arguments if each != "verify=true")).code == 0
    if "prune=true" in arguments:  # of streams that no other test reads
        data = reader / "data"
    torch.manual_seed(0)
    ended = run_command(reader, data, name, *arguments)
    assert ended.code == 0, f"{name} {' '.join(arguments)}\n{ended.err}\n{ended.out[-2000:]}"
    assert "Traceback" not in ended.err


def test_most_are_run():
    assert len(commands()) > 35
