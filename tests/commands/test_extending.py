"""Components of a stranger, in a package of their own: used like ours, by overrides and by a folder of configs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from harness import QUICK, REPOSITORY, only_run, run_command, same_weights, stop_at
from PIL import Image

import fastconv
from fastconv.budget.benchmark import BenchmarkKey
from fastconv.models import build_model
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.targets import source_digest, targets_in

PACKAGE = {
    "__init__.py": "",
    "networks.py": '''
from torch import Tensor, nn

class Net(nn.Module):
    """A small network, without `blocks`."""

    def __init__(self, channels: int, classes: int, width: int = 4, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(2 * width, classes)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3))) * self.scale

class Wrong(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 1:]
''',
    "optimizers.py": '''
import torch

class SignSGD(torch.optim.Optimizer):
    """Each weight moves by the learning rate in the direction of its gradient's sign."""

    def __init__(self, params, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    mean = self.state[param].setdefault("mean", torch.zeros_like(param))
                    mean.mul_(group["momentum"]).add_(param.grad)
                    param.sub_(mean.sign(), alpha=group["lr"])
        return loss

class Builder:
    def __init__(self, lr: float) -> None:
        self.lr = lr

    def build(self, model, batch_size, precision):
        return torch.optim.SGD(model.parameters(), lr=self.lr * batch_size)
''',
    "schedules.py": """
from dataclasses import dataclass

@dataclass
class Triangle:
    peak: float = 0.5

    def __call__(self, progress: float) -> float:
        return progress / self.peak if progress < self.peak else (1 - progress) / (1 - self.peak)
""",
}
PACKAGE["augmentations.py"] = """
from dataclasses import dataclass

import numpy as np

@dataclass(frozen=True)
class Invert:
    probability: float = 0.5

    def draw(self, draws):
        return draws.chances(self.probability)

    def apply(self, images, drawn, fill):
        images[drawn] = 255 - images[drawn]
"""
PACKAGE["callbacks.py"] = '''
from pathlib import Path

import lightning as L

class Count(L.Callback):
    """Counts steps, over all processes of a run."""

    def __init__(self, file: str = "count.txt") -> None:
        self.file, self.count = Path(file), 0

    def on_train_batch_end(self, trainer, *_) -> None:
        self.count += 1

    def on_train_end(self, trainer, *_) -> None:
        self.file.write_text(str(self.count))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state) -> None:
        self.count = state["count"]
'''
PACKAGE["data.py"] = """
import numpy as np
from sklearn.datasets import load_digits

def photos(count: int):
    digits = load_digits()
    images = np.minimum(digits.images[..., None] * 16, 255).astype(np.uint8)
    train, test = slice(0, count), slice(count, count + 100)
    return images[train], digits.target[train], images[test], digits.target[test], [f"digit {n}" for n in range(10)]
"""
INVERT = "{_target_: stranger.augmentations.Invert, probability: 0.25}"
COUNT = "{_target_: stranger.callbacks.Count}"
TARGETS = {
    "dataset._target_": "stranger.data.photos",
    "model._target_": "stranger.networks.Net",
    "augment.extra.0._target_": "stranger.augmentations.Invert",
    "optimizer._target_": "stranger.optimizers.SignSGD",
    "schedule._target_": "stranger.schedules.Triangle",
    "callbacks.0._target_": "stranger.callbacks.Count",
}
COMPONENTS = (
    *(f"{key}={target}" for key, target in TARGETS.items() if ".0." not in key),
    f"augment.extra=[{INVERT}]",
    f"callbacks=[{COUNT}]",
    "dataset.arguments.count=640",
    "dataset.flip=0",
    "dataset.crop_padding=1",
    "dataset.cutout_size=2",
    "model.width=6",
    "model.micro_batch_size=32",
    "optimizer.max_lr=0.003",
    "schedule.max_epochs=0.5",
    "schedule.peak=0.3",
)
CONFIGS = {
    "model/theirs.yaml": "{_target_: stranger.networks.Net, width: 4, micro_batch_size: 32}",
    "optimizer/theirs.yaml": "{_target_: stranger.optimizers.SignSGD, max_lr: 0.003}",
    "schedule/theirs.yaml": "{_target_: stranger.schedules.Triangle, peak: 0.3, max_epochs: 0.5}",
    "dataset/theirs.yaml": "{defaults: [_schema, _self_], name: custom, _target_: stranger.data.photos,"
    " arguments: {count: 640}, flip: 0.0, crop_padding: 1, cutout_size: 2}",
    "augment/theirs.yaml": "{defaults: [_schema, _self_], crop: {padding: 1}, cutout: {size: 2}, extra: ["
    + INVERT
    + "]}",
    "trainer/theirs.yaml": "{defaults: [_schema, _self_], accelerator: cpu, precision: fp32}",
}
EXPERIMENT = """# @package _global_
defaults:
  - override /dataset: theirs
  - override /model: theirs
  - override /augment: theirs
  - override /optimizer: theirs
  - override /schedule: theirs
  - override /trainer: theirs
experiment: theirs
callbacks: [{_target_: stranger.callbacks.Count}]
"""
STEPS = round(0.5 * 640 / 64)
TINY = ("batch_size=64", "micro_batch_size=32", "budget.seconds=null", "stream=online", "figures=false")
RUN = ("trainer=cpu", "trainer.precision=fp32", *TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A stranger's working directory: the package, and a folder of configs."""
    folder = tmp_path_factory.mktemp("work")
    for name, text in PACKAGE.items():
        path = folder / "stranger" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for name, text in {**CONFIGS, "experiment/theirs.yaml": EXPERIMENT}.items():
        path = folder / "configs" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if path != str(folder)]


@pytest.fixture(scope="module")
def trained(folder, digits_root) -> Path:
    """The folder of a run with everything of the stranger's."""
    ended = run_command(folder, digits_root, "train", *RUN, *COMPONENTS, "outputs=straight")
    assert ended.code == 0, ended.err
    assert (folder / "count.txt").read_text() == str(STEPS)
    return only_run(folder / "straight")


@pytest.fixture
def theirs(folder, digits_root):
    """Runs a command in that working directory."""
    return lambda *arguments: run_command(folder, digits_root, *arguments)


def test_they_are_recorded(trained):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert targets_in(config) == TARGETS
    assert config["model"] == {"name": "Net", "_target_": TARGETS["model._target_"], "micro_batch_size": 32, "width": 6}
    results = Results.read(trained)
    assert (results.model, results.stop_reason, results.steps) == ("Net", "epochs", STEPS)
    expected = {key: target for key, target in TARGETS.items() if ".0." not in key}
    expected |= {"model.width": 6, "schedule.peak": 0.3, "dataset.arguments.count": 640}
    assert {key: results.hparams[key] for key in expected} == expected
    assert results.hparams["augment.extra"] == [{"_target_": "stranger.augmentations.Invert", "probability": 0.25}]
    assert results.hparams["callbacks"] == [{"_target_": "stranger.callbacks.Count"}]
    assert results.petaflop > 0
    assert results.final_lr < 0.2
    network = torch.load(trained / "last.ckpt", weights_only=True)["network"]
    assert network["settings"] == {"_target_": TARGETS["model._target_"], "width": 6}


def test_a_folder_of_configs_gives_the_same_run(theirs, folder, trained):
    ended = theirs("train", "--config-dir", "configs", "experiment=theirs", "model.width=6", *TINY, "outputs=by-config")
    assert ended.code == 0, ended.err
    run = only_run(folder / "by-config")
    found, expected = ({**Results.read(each).hparams} for each in (run, trained))
    assert {key for key in found if found[key] != expected.get(key)} == {"experiment"}
    assert same_weights(run, trained)


def test_a_run_is_stopped_and_goes_on(theirs, folder, trained, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)
        assert theirs("train", *RUN, *COMPONENTS, "outputs=stopped").code == 143
    run = only_run(folder / "stopped")
    ended = theirs("train", f"resume={run}", "figures=false")
    assert ended.code == 1
    assert ended.err.startswith(f"fastconv: {run}/config.yaml names code to run, ")
    assert all(f"{key}={target}" in ended.err for key, target in TARGETS.items())
    assert ended.err.count("\n") == 1
    ended = theirs("train", *RUN, *COMPONENTS, "outputs=stopped", "resume=auto")
    assert ended.code == 0, ended.err
    assert only_run(folder / "stopped") == run
    assert same_weights(run, trained)
    assert (folder / "count.txt").read_text() == str(STEPS)


def test_a_folder_of_somebody_else_goes_on_when_it_is_trusted(theirs, folder, trained, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)
        assert theirs("train", *RUN, *COMPONENTS, "outputs=foreign").code == 143
    run = only_run(folder / "foreign")
    ended = theirs("train", f"resume={run}", "trust=true")
    assert ended.code == 0, ended.err
    assert same_weights(run, trained)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("predict", ("images=photo.png", "out=-")),
        ("evaluate", ()),
        ("export", ("format=[torch]", "samples=20")),
        ("explain", (*QUICK, "method=[grad_cam,grad_cam_fine]")),
    ],
)
def test_a_trained_network_is_used_if_it_is_trusted(theirs, folder, trained, name, arguments):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "photo.png")
    ended = theirs(name, f"run={trained}", *arguments)
    assert ended.code == 1
    assert "model._target_=stranger.networks.Net, " in ended.err
    assert "may be somebody else's: add trust=true if you trust it" in ended.err
    assert ended.err.count("\n") == 1
    ended = theirs(name, f"run={trained}", *arguments, "trust=true")
    assert ended.code == 0, ended.err


def test_python_asks_for_trust_too(trained):
    with pytest.raises(InputError, match="add trust=true"):
        fastconv.load(trained)
    assert len(fastconv.load(trained, trust=True).predict(np.zeros((3, 8, 8, 1), np.uint8))) == 3


def test_comparing_runs_imports_nothing(trained, tmp_path, digits_root):
    """A table needs no code: from a folder without the package."""
    copy = tmp_path / "outputs" / "run"
    shutil.copytree(trained, copy)
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("stranger.", "elsewhere."))
    ended = run_command(tmp_path, digits_root, "compare", "format=json")
    assert ended.code == 0, ended.err
    assert "Net" in ended.out


def test_a_checkpoint_of_another_network_is_not_followed(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["network"]["settings"]["_target_"] = "elsewhere.Net"
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match="another network"):
        fastconv.load(tmp_path / "run", trust=True)


def test_a_sweep_goes_over_them(theirs):
    ended = theirs(
        "train", "--config-dir", "configs", "-m", "model=theirs,davidnet", "model.width=4", "schedule=theirs", *RUN,
        "dry_run=true",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "Net: " in ended.out
    assert "davidnet: " in ended.out


def test_help_lists_them(theirs):
    ended = theirs("train", "--config-dir", "configs", "model=theirs", "--help")
    assert ended.code == 0, ended.err
    assert (
        "airbench, airbench95, airbench96, custom, davidnet, davidnet_fast, pretrained, resnet18, theirs" in ended.out
    )
    assert "  model._target_=stranger.networks.Net\n" in ended.out


def test_a_builder_makes_an_optimizer(theirs):
    ended = theirs(
        "train", *RUN, "optimizer._target_=stranger.optimizers.Builder", "optimizer.lr=0.001", "model.width=4",
        "dry_run=true",
    )  # fmt: skip
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model._target_=stranger.networks.Nett", "stranger.networks has no Nett; did you mean Net?"),
        ("model._target_=strange.networks.Net", "there is no module strange, neither in"),
        ("model._target_=Net", "give a class or function as package.module.Name"),
        ("model._target_=stranger.networks.Wrong", "makes a tensor [2, 9] of images [2, 1, 8, 8]"),
        ("model=custom", "model._target_ has no value"),
        ("optimizer._target_=torch.optim.RMSprop", "needs its peak learning rate: set optimizer.max_lr"),
        ("optimizer._target_=stranger.networks.Net", "Net missing a required argument: 'channels'"),
        ("schedule._target_=builtins.len", "fails at progress 0.0"),
    ],
)
def test_what_cannot_be_used_is_one_line(theirs, override, line):
    ended = theirs("train", *RUN, override, "dry_run=true")
    assert ended.code == 1
    assert line in ended.err
    assert ended.err.count("\n") == 1


def test_an_unknown_argument_is_named(theirs):
    ended = theirs("train", *RUN, *COMPONENTS, "model.widht=3", "dry_run=true")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "Net got an unexpected keyword argument 'widht'; it takes channels, classes, width, scale" in ended.err


def test_an_unknown_option_names_those_of_the_folder(theirs):
    ended = theirs("train", "--config-dir", "configs", "model=their")
    assert ended.err.startswith("fastconv: unknown model their; did you mean theirs? Choose from: airbench, ")


def test_other_code_is_another_measurement(folder, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / "stranger" / "networks.py"
    before = source_digest("stranger.networks.Net")
    key = BenchmarkKey("Net", {"_target_": "stranger.networks.Net"}, (8, 8, 1), 10, 64, 32, True, "sgd")
    assert key.sources() == {"stranger.networks.Net": before}
    text = path.read_text()
    path.write_text(text + "\n# changed\n")
    assert source_digest("stranger.networks.Net") != before
    path.write_text(text)


NETWORK_FILE = '''
from dataclasses import dataclass

from torch import nn

from fastconv.models import register_network

@dataclass
class Settings:
    """A linear classifier."""

    name: str = "linear_classifier"
    bias: bool = True
    """Whether it has a bias."""
    micro_batch_size: int = 256

@register_network(Settings)
class LinearClassifier(nn.Sequential):
    def __init__(self, channels: int, classes: int, bias: bool = True) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes, bias))
'''
SCHEDULE_FILE = '''
from dataclasses import dataclass

from fastconv.optim.registry import register_schedule
from fastconv.optim.schedules import Curve, Factors

@register_schedule
@dataclass(frozen=True)
class Root(Curve):
    """A square root from the peak down."""

    name: str = "root"
    power: float = 0.5
    """Its power."""

    def factors(self, progress: float) -> Factors:
        return Factors((1 - progress) ** self.power)
'''


def test_one_file_in_the_package_registers(tmp_path):
    """For those who edit the package: a copy of it, with a file for a network and one for a schedule."""
    for name in ("fastconv", "conf"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fastconv" / "models" / "linear_classifier.py").write_text(NETWORK_FILE)
    (tmp_path / "fastconv" / "optim" / "root.py").write_text(SCHEDULE_FILE)
    script = """
import json, sys
from fastconv.config.overrides import compose
from fastconv.config.typed_config import typed
from fastconv.config.store import complete
from fastconv.config.overrides import group_options
found = typed("train", compose("train", ["schedule=root", "schedule.power=2"]), [])
first = [found.schedule.factors(0.5).lr, "torch" in sys.modules]
found = typed("train", compose("train", ["model=linear_classifier", "model.bias=false"]), [])
print(json.dumps([*first, group_options("model"), found.model.bias, found.model.name]))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    lr, imported_torch, options, bias, name = json.loads(ended.stdout)
    assert (lr, imported_torch, bias, name) == (0.25, False, False, "linear_classifier")
    assert "linear_classifier" in options


def test_networks_of_the_package_are_built_by_name():
    with pytest.raises(KeyError):
        build_model("nothing", 3, 10)


@pytest.mark.parametrize("place", ["callbacks", "augment: {extra", "logger: {mine"])
def test_an_interpolation_in_a_strangers_config_runs_nothing(command, tmp_path, davidnet_run, place):
    """OmegaConf would make a `_target_` of a resolver's words, past the check for trust."""
    run = shutil.copytree(davidnet_run, tmp_path / "run")
    (run / "results.json").unlink()
    harm = tmp_path / "harm"
    text = f'${{oc.create:[{{_target_:os.system,command:"touch {harm}"}}]}}'
    stored = yaml.safe_load((run / "config.yaml").read_text())
    key, _, inner = place.partition(": {")
    stored[key] = {**stored[key], inner: text} if inner else text
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    for name, key in (("train", "resume"), ("predict", "run"), ("evaluate", "run")):
        more = [f"images={run}/curves.png"] if name == "predict" else []
        ended = command(name, f"{key}={run}", *more)
        assert (ended.code, "no readable config.yaml" in ended.err) == (1, True), ended.err
    assert not harm.exists()


def test_a_component_may_stand_before_options(command, tmp_path, monkeypatch):
    (tmp_path / "early.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    ended = command("train", "model._target_=early.Net", "dry_run=true", "--cfg", "job")
    assert ended.code == 0, ended.err
    assert "_target_: early.Net" in ended.out


def test_what_follows_from_the_images_is_no_argument(command):
    ended = command("train", "model._target_=torch.nn.Linear", "model.channels=3", "dry_run=true")
    assert ended.code == 1
    assert ended.err == "fastconv: model.channels follows from the images: leave it out\n"


@pytest.mark.parametrize(("old", "new"), [("rest=0.3", "data_pruning"), ("tta.mirror=true", "tta.flip")])
def test_a_renamed_key_is_told_its_name_of_today(command, old, new):
    ended = command("train", "dataset=digits", old)
    assert ended.code == 1
    assert ended.err.startswith(f"fastconv: unknown key {old.partition('=')[0]}: it is {new} now.")
