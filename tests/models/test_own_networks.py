"""Networks of a user's own: what does not fit is told before a run, and what fits stays as it is."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from fastconv.analysis.checkpoint_checks import require_numbers
from fastconv.models import CustomNetwork, blueprint, build_model, check_network
from fastconv.optim.averaging import Lookahead, MovingAverage, weights_of
from fastconv.system.errors import InputError
from fastconv.system.targets import source_digest
from fastconv.training import planned_network
from fastconv.training.callbacks.finite_loss import has_finite_weights
from fastconv.training.module import ImageClassifier

SHAPE = (4, 4, 3)


class Fits(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).flatten(1))


class Viewed(Fits):
    def forward(self, x):
        return self.head(self.norm(self.conv(x)).view(len(x), -1))


class Auxiliary(Fits):
    def forward(self, x):
        return (super().forward(x), x.mean()) if self.training else super().forward(x)


class FailsInTraining(Fits):
    def forward(self, x):
        return super().forward(x if not self.training else x[:, :1])


class MadeLate(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.classes = nn.Conv2d(channels, 4, 1), classes

    def forward(self, x):
        x = self.conv(x).flatten(1)
        if not hasattr(self, "head"):
            self.head = nn.Linear(x.shape[1], self.classes)
        return self.head(x)


class Lazy(nn.Sequential):
    def __init__(self, channels, classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(classes))


class Volume(Fits):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.conv3d = nn.Conv3d(1, 1, 1)


class Synchronized(Fits):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.norm = nn.SyncBatchNorm(4)


class Popped(Fits):
    """Takes its lists apart, as networks do that build their layers from them."""

    def __init__(self, channels, classes, widths):
        super().__init__(channels, classes)
        self.seen = [widths.pop(0) for _ in range(2)]


class Masked(Fits):
    """Has a mask, as an attention does, and a part that its gradients do not reach."""

    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.unused = nn.Linear(2, 2)


class FromFile(Fits):
    def __init__(self, channels, classes, file):
        super().__init__(channels, classes)
        self.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))


@pytest.fixture(autouse=True)
def theirs(monkeypatch):
    """Make the classes above a module that a setting can name."""
    module = ModuleType("theirs")
    vars(module).update({name: value for name, value in globals().items() if isinstance(value, type)})
    monkeypatch.setitem(sys.modules, "theirs", module)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Viewed", r"fails on images float \[2, 3, 4, 4\]: .*Use \.reshape\(\.\.\.\) instead"),
        ("Auxiliary", r"makes a tuple of images \[2, 3, 4, 4\] when it trains: it must make logits \[2, 5\]"),
        ("FailsInTraining", r"fails when it trains on images float \[2, 3, 4, 4\]: RuntimeError: .*channels"),
        ("MadeLate", r"makes head.(bias|weight) when it is first called: make all layers in __init__"),
        ("Lazy", "has a lazy layer with 1.weight: give its number of inputs"),
        ("Volume", "fails on images float .*channels_last"),
    ],
)
def test_what_would_fail_in_training_is_told_before(name, says):
    with pytest.raises(InputError, match=f"^model._target_=theirs.{name} {says}") as error:
        check_network(name, SHAPE, 5, {"_target_": f"theirs.{name}"})
    assert "\n" not in str(error.value)


def test_what_fits_passes():
    check_network("Fits", SHAPE, 5, {"_target_": "theirs.Fits"})


@pytest.mark.parametrize("small", [0, 0.5])
def test_weights_that_channels_last_cannot_hold_pass_without_it(small, monkeypatch):
    monkeypatch.setattr(planned_network, "small_side", lambda side: side)
    spec = SimpleNamespace(shape=SHAPE, classes=("a", "b"))
    config = SimpleNamespace(model=CustomNetwork(_target_="theirs.Volume"), progressive_resizing=small,
                             trainer=SimpleNamespace(channels_last=False))  # fmt: skip
    assert isinstance(planned_network.checked_network(config, spec), Volume)
    config.trainer.channels_last = True
    with pytest.raises(InputError, match="channels_last"):
        planned_network.checked_network(config, spec)


def test_statistics_that_ranks_share_are_not_exchanged_on_cpus(monkeypatch):
    """In a later job of a sweep, the ranks of the one before are still there."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    check_network("Synchronized", SHAPE, 5, {"_target_": "theirs.Synchronized"})


def test_lists_that_a_network_takes_apart_are_recorded_whole():
    settings = {"_target_": "theirs.Popped", "widths": [8, 16, 32]}
    module = ImageClassifier("Popped", settings, SHAPE, ("a", "b"), (0.5,) * 3, (0.2,) * 3)
    assert module.model.seen == build_model("Popped", 3, 2, **settings).seen == [8, 16]
    assert module.network["settings"] == settings == {"_target_": "theirs.Popped", "widths": [8, 16, 32]}


def test_a_mask_of_infinities_is_no_damage():
    network = Masked(3, 5)
    assert has_finite_weights(network)
    require_numbers((0.5,), (0.2,), network.state_dict(), may_be_infinite=True)
    for key in ("norm.running_var", "head.weight"):
        damaged = Masked(3, 5)
        damaged.state_dict()[key].view(-1)[0] = torch.nan
        assert not has_finite_weights(damaged)
        with pytest.raises(InputError, match=f"{key} are not all finite"):
            require_numbers((0.5,), (0.2,), damaged.state_dict(), may_be_infinite=True)
    network.norm.running_var[0] = torch.inf
    assert not has_finite_weights(network)


@pytest.mark.parametrize("kind", [MovingAverage, Lookahead])
def test_an_average_leaves_a_mask_as_it_is(kind):
    network, average = Masked(3, 5), kind(update_interval=2, decay=0.5)
    mask = network.mask.clone()
    average.start(weights_of(network))
    for step in range(1, 5):
        nn.init.constant_(network.head.weight, step)
        average.update(weights_of(network), step, progress=1.0)
    average.finish(weights_of(network))
    assert torch.equal(network.mask, mask)
    assert has_finite_weights(network)


def test_a_step_is_compiled_for_a_network_that_does_not_use_all(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda work, **settings: work)
    module = ImageClassifier("Masked", {"_target_": "theirs.Masked"}, SHAPE, ("a", "b"), (0.5,) * 3, (0.2,) * 3)
    module.compile_training((torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0, 1])))
    assert all(parameter.grad is None for parameter in module.parameters())


def test_weights_that_a_network_loads_from_a_file_are_no_warning(tmp_path):
    torch.save(Fits(3, 5).state_dict(), tmp_path / "fits.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = blueprint("FromFile", 3, 5, _target_="theirs.FromFile", file=str(tmp_path / "fits.pt"))
    assert made.head.weight.is_meta


def test_a_partial_is_known_by_the_file_that_makes_it(tmp_path, monkeypatch):
    text = "from functools import partial\nfrom torch import nn\nsmall = partial(nn.Linear, bias=False)\n"
    file = tmp_path / "with_partial.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "with_partial", raising=False)
    before = source_digest("with_partial.small")
    file.write_text(text.replace("False", "True"))
    assert source_digest("with_partial.small") != before
    del sys.modules["with_partial"]
