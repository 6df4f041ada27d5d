"""Checkpoints of somebody else: refused in one line, with no code run and no memory beyond the file's size."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import zipfile

import numpy as np
import pytest
import torch
import yaml

from fastconv.analysis import checkpoint as checkpoints
from fastconv.analysis.checkpoint import load_run
from fastconv.predictor import load
from fastconv.system.errors import InputError
from fastconv.system.signals import Interrupted, listening


class Harm:
    def __reduce__(self):
        return os.system, ("touch harm",)


def network(**values):
    def change(checkpoint):
        checkpoint["network"] = {**checkpoint["network"], **values}

    return change


def settings(**values):
    """Claims of the checkpoint that the config beside it repeats."""

    def change(checkpoint):
        checkpoint["network"]["settings"] |= values

    return change


def expand(checkpoint):
    """A tensor of 4 bytes that claims four terabytes."""
    key = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][key] = torch.zeros(1).expand(2**40)


def sparse(checkpoint):
    checkpoint["state_dict"]["more"] = torch.sparse_coo_tensor(size=(2**40, 2**20))


def not_a_number(checkpoint):
    key = next(key for key, value in checkpoint["state_dict"].items() if value.is_floating_point())
    checkpoint["state_dict"][key].flatten()[-1] = float("nan")


def without(key):
    def change(checkpoint):
        del checkpoint[key]

    return change


def weights_of_text(checkpoint):
    checkpoint["state_dict"] = dict.fromkeys(checkpoint["state_dict"], "x")


def temperature(value):
    def change(checkpoint):
        checkpoint["temperature"] = value

    return change


OTHER, DAMAGED = "of another network", "damaged or not fastconv's"
CHANGES = {
    "a network of a billion filters": (settings(width=10**9), "no readable config.yaml .*width=1000000000"),
    "a wider network": (settings(width=1024), OTHER),
    "a width of text": (settings(width="wide"), "no readable config.yaml"),
    "a billion classes": (network(classes=range(10**9)), DAMAGED),
    "many classes": (network(classes=["a"] * 100_001), DAMAGED),
    "other classes": (network(classes=[*map(str, range(900))]), OTHER),
    "one class": (network(classes=["a"]), DAMAGED),
    "classes of numbers": (network(classes=list(range(10))), DAMAGED),
    "images of a terapixel": (network(shape=(10**6, 10**6, 1)), DAMAGED),
    "images of 3 megapixels": (network(shape=(1025, 1025, 1)), DAMAGED),
    "the same class twice": (network(classes=[*"012345678", "0"]), DAMAGED),
    "a weight that is no number": (not_a_number, "damaged .*its weights .* are not all finite numbers"),
    "no deviation": (network(std=[0.0]), "damaged .*its mean or standard deviation of pixels is out of range"),
    "a deviation of nothing": (network(std=[1e-300]), "deviation of pixels is out of range"),
    "a mean beyond white": (network(mean=[1e30]), "its mean or standard deviation of pixels is out of range"),
    "a mean of 400 digits": (network(mean=[10**400]), DAMAGED),
    "levels that are no number": (network(levels={"integers": float("nan"), "floats": 255.0}), DAMAGED),
    "levels below black": (network(levels={"integers": 1.0, "floats": -1e308}), DAMAGED),
    "levels of text": (network(levels={"integers": "1", "floats": 255.0}), DAMAGED),
    "a million channels": (network(shape=(8, 8, 10**6)), DAMAGED),
    "a shape of text": (network(shape="abc"), DAMAGED),
    "means without end": (network(mean=[float("inf")]), DAMAGED),
    "too many means": (network(mean=[0.5] * 3), DAMAGED),
    "a network without weights": (without("state_dict"), DAMAGED),
    "no network": (without("network"), DAMAGED),
    "weights of text": (weights_of_text, DAMAGED),
    "a temperature of text": (temperature("warm"), DAMAGED),
    "no temperature at all": (temperature(float("nan")), DAMAGED),
    "a temperature of zero": (temperature(0.0), DAMAGED),
    "a tensor of terabytes": (expand, DAMAGED),
    "a sparse tensor": (sparse, DAMAGED),
    "another name": (network(model="../../resnet18"), OTHER),
    "code": (network(settings={"_target_": "os.system"}), OTHER),
}  # fmt: skip


def with_code(path, checkpoint):
    torch.save({**checkpoint, "network": Harm()}, path)


def plain_pickle(path, checkpoint):
    path.write_bytes(pickle.dumps(Harm()))


def bomb(path, checkpoint):
    """A file of 20 kB that unpacks to 20 MB, as one of 2 MB would to 2 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2))
        file.writestr("archive/data/0", bytes(20 * 2**20))


def array_of_gigabytes(path, checkpoint):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
        file.writestr("archive/version", "3\n")


def truncated(path, checkpoint):
    torch.save(checkpoint, path)
    path.write_bytes(path.read_bytes()[:-3000])


def tensor(path, checkpoint):
    torch.save(torch.zeros(3), path)


FILES = {
    "code": (with_code, "more than plain values"),
    "a pickle": (plain_pickle, "not in torch's format"),
    "a bomb": (bomb, "unpack to more than its size"),
    "an array of gigabytes": (array_of_gigabytes, "bytearray"),
    "cut off": (truncated, "not in torch's format"),
    "a tensor": (tensor, "it holds a Tensor"),
    "text": (lambda path, checkpoint: path.write_text("<script>"), "not in torch's format"),
    "empty": (lambda path, checkpoint: path.touch(), "not in torch's format"),
    "a pipe": (lambda path, checkpoint: os.mkfifo(path), "a named pipe"),
    "a device": (lambda path, checkpoint: path.symlink_to("/dev/zero"), "a device"),
    "a folder": (lambda path, checkpoint: path.mkdir(), "a folder"),
}  # fmt: skip


@pytest.fixture
def sent(davidnet_run, tmp_path, monkeypatch):
    """The folder of a run and what its checkpoint holds; the working folder is an empty one."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(davidnet_run / "config.yaml", run)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield run, torch.load(davidnet_run / "last.ckpt", weights_only=True)
    assert not list(here.iterdir()), "no code was run"


@pytest.mark.filterwarnings("ignore:.*parse")  # of torch, about sparse tensors
@pytest.mark.parametrize("name", CHANGES)
def test_claims_that_cannot_be(sent, name):
    run, checkpoint = sent
    change, reason = CHANGES[name]
    change(checkpoint)
    torch.save(checkpoint, run / "last.ckpt")
    config = yaml.safe_load((run / "config.yaml").read_text())
    claimed = checkpoint.get("network", {}).get("settings", {})
    config["model"] |= {key: value for key, value in claimed.items() if key in config["model"]}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=reason) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB"


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint(sent, name):
    run, checkpoint = sent
    make, reason = FILES[name]
    make(run / "last.ckpt", checkpoint)
    with pytest.raises(InputError, match=reason) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


# Texts in config.yaml, and why they are refused. YAML has several ways to write one character.
CONFIGS = {
    "an interpolation": ('{"train": "http://host/${oc.env:SECRET}"}', "interpolations"),
    "an interpolation in YAML's escapes": ('{"train": "http://host/\\x24\\x7boc.env:SECRET}"}', "interpolations"),
    "an interpolation as a key": ('{"arguments": {"${oc.env:SECRET}": 1}}', "interpolations"),
    "a folder elsewhere": ('{"name": "../../../../tmp/x", "source": "image_folder"}', "is not a valid name"),
    "an escape": ('{"name": "a\\e[2Jb", "source": "image_folder"}', "is not a valid name"),
    "an unknown source": ('{"source": "os.system"}', "is unknown"),
    "an unknown set": ('{"name": "../digits"}', "is unknown"),
    "many settings": (json.dumps({"arguments": dict.fromkeys(map(str, range(20_000)), 1)}), "more than 3,000 keys"),
    "a size without end": ('{"image_size": 1000000000}', "is not possible"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_are_no_plain_values(sent, name):
    run, checkpoint = sent
    content, reason = CONFIGS[name]
    config = yaml.safe_load((run / "config.yaml").read_text())
    lines = yaml.safe_dump({key: value for key, value in config.items() if key != "dataset"})
    dataset = yaml.safe_dump(config["dataset"], default_flow_style=True, width=10_000).strip()
    merged = dataset[:-1] + ", " + content[1:]  # of two equal keys, the last one counts
    (run / "config.yaml").write_text(f"{lines}\ndataset: {merged}\n")
    torch.save(checkpoint, run / "last.ckpt")
    with pytest.raises(InputError, match=f"no readable config.yaml .*{reason}") as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", ["stored", "load_checkpoint"])
def test_a_signal_that_becomes_another_error_is_no_damaged_file(sent, monkeypatch, reader):
    """As OmegaConf makes one of it where it arrives in the middle of a merge."""
    run, checkpoint = sent
    torch.save(checkpoint, run / "last.ckpt")

    def interrupted(path):
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        raise AttributeError("'NoneType' object has no attribute '_metadata'")

    monkeypatch.setattr(checkpoints, reader, interrupted)
    with pytest.raises(Interrupted, match="SIGTERM"), listening():
        load_run(run)


@pytest.mark.parametrize("name", ["splits.json", "config.yaml"])
def test_a_shape_that_another_file_contradicts(sent, name):
    """A larger one would need gigabytes to predict."""
    run, checkpoint = sent
    checkpoint["network"]["shape"] = [1024, 1024, 1]
    torch.save(checkpoint, run / "last.ckpt")
    if name == "splits.json":
        part = {"images": 0, "digest": "", "hashes": "", "labels": ""}
        record = {"format": 1, "classes": ["a", "b"], "shape": [8, 8, 1], "train": part, "holdout": part, "test": part}
        (run / name).write_text(json.dumps(record))
    else:
        config = yaml.safe_load((run / name).read_text())
        config["dataset"] |= {"source": "image_folder", "name": "theirs", "image_size": 8}
        (run / name).write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=f"images of 1024x1024x1, but {name} beside it for 8x8x1: restore") as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


def test_results_that_are_no_numbers_are_refused(sent):
    """Weights that are finite, and too large to compute with."""
    run, checkpoint = sent
    for value in checkpoint["state_dict"].values():
        if value.is_floating_point() and value.ndim > 1:
            value.fill_(3e38)
    del checkpoint["weights_digest"]
    torch.save(checkpoint, run / "last.ckpt")
    with pytest.raises(InputError, match="outputs are not finite"):
        load(run, "cpu").predict(np.ones((2, 8, 8, 1), np.uint8))
