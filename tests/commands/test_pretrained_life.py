"""What follows a pretrained run that was killed and went on: its predictions are those of the library's own network.

The weights are random ones, in files that the tests write. The oracle is torchvision's network, or timm's, with the
weights of the checkpoint, the normalisation that the library names, and the temperature of results.json.
"""

import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from harness import QUICK, only_run, run_command, same_weights, weights
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize

import fastconv
from fastconv.budget import hardware
from fastconv.budget.autotune import choose
from fastconv.budget.autotune.flip_test import FlipAccuracy
from fastconv.runs.results import Results
from fastconv.training.module import ImageClassifier

SIDE = 32
LIGHT = "mobilenet_v3_small"
TIMM = "timm:test_resnet.r160_in1k"
# Ten steps of eight images. The budget is there for `best`, which needs one; the epochs are over long before it.
RUN = ("dataset=image_folder", "dataset.root=photos", f"dataset.image_size={SIDE}", "batch_size=8",
       "micro_batch_size=8", "budget.seconds=100000", "schedule.max_epochs=2.5", "calibration_images=8",
       "stream=online", "checkpoint.every=null", "validate.on=none", "trainer=cpu", "trainer.precision=fp32",
       "trainer.num_threads=1")  # fmt: skip
KINDS = {
    "finetune": ("experiment=pretrained", "model.least_side=0", "model.head_share=0.3"),
    "head": ("experiment=pretrained", "model.least_side=0", "model.mode=head", "model.feature_share=0.6"),
    "best": ("experiment=best", f"pretrained.backbone={LIGHT}"),  # which scales the images up
    "timm": ("experiment=pretrained", f"model.backbone={TIMM}"),
}


def oracle(run: Path, images: np.ndarray) -> np.ndarray:
    """Probabilities by the library's own network, from images uint8 [N, H, W, 3]."""
    config, stored = OmegaConf.load(run / "config.yaml").model, weights(run)
    state = {name.removeprefix("model.network."): value for name, value in stored.items() if ".network." in name}
    if config.backbone.startswith("timm:"):
        timm = importlib.import_module("timm")
        network = timm.create_model(config.backbone.removeprefix("timm:"), num_classes=2)
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    else:
        network = torchvision.models.get_model(config.backbone, num_classes=2)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network.load_state_dict(state)
    pixels = normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, mean, std)
    if config.least_side:
        pixels = resize(pixels, [config.least_side] * 2, InterpolationMode.BILINEAR, antialias=False)
    with torch.no_grad():
        return (network.eval()(pixels) / (Results.read(run).temperature or 1)).softmax(1).numpy()


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder of photos, green ones and violet ones, and of files of random weights."""
    folder = tmp_path_factory.mktemp("life")
    draw = np.random.default_rng(0)
    for at in range(40):
        pixels = draw.integers(0, 120, (SIDE, SIDE, 3), np.uint8)
        pixels[..., [[1], [0, 2]][at % 2]] += 110
        path = folder / "photos" / ("green", "violet")[at % 2] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for name in ("resnet18", LIGHT):
        write_weights(torchvision.models.get_model, name, folder / f"{name}.pth")
    return folder


def write_weights(make: Callable[[str], torch.nn.Module], name: str, path: Path) -> None:
    """Write a network with random weights; its batch norms have statistics, or else all features would be alike."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        network = make(name)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # those of the next batch alone
        network.train()(torch.randn(16, 3, SIDE, SIDE))
        torch.save(network.state_dict(), path)


def test_a_file_of_torchvision_is_trained_as_its_network(begun, tmp_path):
    """As a person says it, by name and file; predictions are those of torchvision's own network with the weights."""
    (tmp_path / "photos").symlink_to(begun / "photos")
    ended = run_command(tmp_path, tmp_path / "data", "train", *RUN, "model=pretrained", "model.backbone=resnet18",
                        f"model.weights={begun}/resnet18.pth", "model.least_side=0", "optimizer=adamw")  # fmt: skip
    assert ended.code == 0, ended.err
    run = only_run(tmp_path / "outputs")
    assert Results.read(run).pretrained == "resnet18 resnet18.pth"
    first, last = ("layer1.0.conv1.weight", "fc.weight")
    before, after = torch.load(begun / "resnet18.pth", weights_only=True), weights(run)
    assert 0 < (after[f"model.network.{first}"] - before[first]).abs().max() < 0.1, "it began with the file"
    assert after[f"model.network.{last}"].shape == (2, 512)
    files = sorted((begun / "photos").rglob("*.png"))
    expected = oracle(run, np.stack([np.asarray(Image.open(file)) for file in files]))
    found = fastconv.load(run, accelerator="cpu").predict(files)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)
    assert np.mean([name == file.parent.name for name, file in zip(found.names, files, strict=True)]) > 0.9


def test_best_tries_a_file_of_torchvision(begun, tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "flip_test", lambda *_: FlipAccuracy(0.5, 0.5, 1000, 0, 0))
    (tmp_path / "photos").symlink_to(begun / "photos")
    ended = run_command(tmp_path, tmp_path / "data", "train", *RUN, "experiment=best", "pretrained.backbone=resnet18",
                        f"pretrained.weights={begun}/resnet18.pth", "dry_run=true")  # fmt: skip
    assert ended.code == 0, ended.err
    told = re.sub(r"[\s│]+", " ", ended.out)
    assert "a linear classifier on the features of resnet18 resnet18.pth classifies 100.0% of " in told
    assert "resnet18 resnet18.pth; the last layer is trained for 25% of the run, then all layers" in told


@pytest.fixture(
    scope="module", params=[each if each == "best" else pytest.param(each, marks=pytest.mark.slow) for each in KINDS]
)
def life(request, begun, tmp_path_factory) -> tuple[str, Path, Path]:
    """(kind, run, undisturbed): the run was killed after half of its steps, and went on from an earlier checkpoint."""
    kind, file = request.param, begun / (f"{LIGHT}.pth" if request.param == "best" else "resnet18.pth")
    if kind == "timm":
        timm = pytest.importorskip("timm", reason="networks of timm need the package timm")
        file = begun / "timm.pth"
        write_weights(timm.create_model, TIMM.removeprefix("timm:"), file)
    place = "pretrained.weights" if kind == "best" else "model.weights"
    training_step, steps, runs = ImageClassifier.training_step, 0, []

    def killed(*given):
        nonlocal steps
        steps += 1
        if steps == 6:
            raise RuntimeError("killed")
        return training_step(*given)

    for name in ("killed", "undisturbed"):
        folder = tmp_path_factory.mktemp(f"{kind}-{name}")
        (folder / "photos").symlink_to(begun / "photos")
        given = ("train", *RUN, *KINDS[kind], f"{place}={file}")
        with pytest.MonkeyPatch.context() as patch:
            # A network from scratch has not learned anything in its test, so that `best` takes the pretrained one.
            patch.setattr(choose, "flip_test", lambda *_: FlipAccuracy(0.5, 0.5, 1000, 0, 0))
            if name == "killed":
                patch.setattr(ImageClassifier, "training_step", killed)
                with pytest.raises(RuntimeError, match="killed"):
                    run_command(folder, folder / "data", *given)
            else:
                ended = run_command(folder, folder / "data", *given)
                assert ended.code == 0, ended.err
        runs.append(only_run(folder / "outputs"))
    stopped, undisturbed = runs
    assert torch.load(stopped / "last.ckpt", weights_only=True)["global_step"] < 5
    aside = file.rename(file.with_suffix(".aside"))  # the checkpoint has all that is needed from now on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "flip_test", lambda *_: pytest.fail("it chose again"))
        ended = run_command(stopped.parents[2], stopped.parents[2] / "data", "train", f"resume={stopped}")
    assert ended.code == 0, ended.err
    aside.rename(file)
    return kind, stopped, undisturbed


def test_it_went_on_as_if_never_killed(life, begun):
    kind, run, undisturbed = life
    results, expected = Results.read(run), Results.read(undisturbed)
    assert (results.steps, results.resumed, results.stop_reason) == (10, 1, "epochs")
    assert results.pretrained == expected.pretrained
    names = {"timm": f"{TIMM} timm.pth", "best": f"{LIGHT} {LIGHT}.pth"}
    assert results.pretrained == names.get(kind, "resnet18 resnet18.pth")
    assert results.experiment == ("best" if kind == "best" else "pretrained")
    assert OmegaConf.load(run / "config.yaml").model.mode == ("head" if kind == "head" else "finetune")
    assert same_weights(run, undisturbed)
    assert (results.accuracy, results.temperature) == (expected.accuracy, expected.temperature)


def test_predictions_are_those_of_the_checkpoint(life, begun, tmp_path, monkeypatch):
    _, run, _ = life
    monkeypatch.setattr(hardware, "_precision", lambda kind: "bf16")  # whatever is faster here
    files = sorted((begun / "photos").rglob("*.png"))
    expected = oracle(run, np.stack([np.asarray(Image.open(file)) for file in files]))
    assert np.ptp(expected[:, 0]) > 1e-3, "it tells images apart"
    found = fastconv.load(run, accelerator="cpu").predict(files).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-4)
    ended = run_command(tmp_path, tmp_path, "predict", f"run={run}", f"images={begun}/photos", "out=found.jsonl",
                        "top=2", "accelerator=cpu")  # fmt: skip
    assert ended.code == 0, ended.err
    told = {}
    for row in map(json.loads, (tmp_path / "found.jsonl").read_text().splitlines()):
        ranked = {each["class"]: each["probability"] for each in row["classes"]}
        told[Path(row["image"]).name] = [ranked["green"], ranked["violet"]]
    np.testing.assert_allclose([told[file.name] for file in files], expected, atol=1e-4)


def test_it_is_scored_and_explained(life, tmp_path):
    _, run, _ = life
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    ended = run_command(tmp_path, run.parents[2] / "data", "evaluate", f"run={copy}")
    assert ended.code == 0, ended.err
    assert json.loads((copy / "evaluation.json").read_text())["accuracy"] == Results.read(run).accuracy
    ended = run_command(tmp_path, run.parents[2] / "data", "explain", f"run={copy}", "method=[grad_cam]", *QUICK)
    assert ended.code == 0, ended.err
    assert list(copy.rglob("explain*.html"))


@pytest.mark.parametrize("kind", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_exported_files_predict_as_the_checkpoint(life, begun, tmp_path, kind):
    _, run, _ = life
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    ended = run_command(tmp_path, run.parents[2] / "data", "export", f"run={copy}", f"format={kind}")
    assert ended.code == 0, ended.err
    images = np.stack([np.asarray(Image.open(file)) for file in sorted((begun / "photos").rglob("*.png"))])
    if kind == "torch":
        found = torch.export.load(copy / "model.pt2").module()(torch.from_numpy(images)).numpy()
    else:
        session = importlib.import_module("onnxruntime").InferenceSession(copy / "model.onnx")
        (found,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, oracle(run, images), atol=1e-4)
