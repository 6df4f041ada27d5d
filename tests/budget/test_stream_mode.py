"""The choice of the stream: on a GPU that has room for the images, nothing is precomputed."""

import dataclasses

import pytest
from harness import noise
from omegaconf import OmegaConf

from fastconv.budget.autotune.settings import Autotune
from fastconv.budget.clock import Clock
from fastconv.budget.hardware import Device
from fastconv.budget.stream_mode import choose_stream
from fastconv.config.overrides import compose
from fastconv.data.splits import Splits
from fastconv.system.errors import InputError
from fastconv.training import run
from fastconv.training.run import settle

IMAGES = noise(57, 3)
NEEDED = IMAGES.images.nbytes


@dataclasses.dataclass(frozen=True)
class Machine(Device):
    """A device that need not be there, with some bytes of free memory."""

    free: int | None = None

    def free_memory(self):
        return self.free


def machine(kind="cuda", free=100 * NEEDED):
    return Machine(kind, "a device", "fp32", 1, False, False, free=free)


def config_of(*overrides):
    return OmegaConf.to_object(compose("train", ["dataset=digits", *overrides]))


@pytest.mark.parametrize("experiment", ["best", "speedrun"])
def test_a_gpu_that_holds_the_images_augments_them(experiment):
    config = config_of(f"experiment={experiment}")
    assert config.stream.mode == "auto"
    mode, reason = choose_stream(config, IMAGES, machine())
    assert (mode, reason) == ("device", "device, as the images need no more than 25% of the GPU's free memory")
    assert choose_stream(config, IMAGES, machine("cpu")) == ("precomputed", "")


@pytest.mark.parametrize(
    ("free", "mode"), [(4 * NEEDED, "device"), (4 * NEEDED - 1, "precomputed"), (None, "precomputed")]
)
def test_the_images_may_take_a_share_of_the_free_memory(free, mode):
    found, reason = choose_stream(config_of("stream=auto"), IMAGES, machine(free=free), Autotune())
    assert found == mode
    assert reason.startswith(mode)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("augment.auto=augmix",), "augment.auto=augmix can only be computed on the host"),
        (("stream.epochs=3",), "stream.epochs is set"),
        (("stream.root=https://example.org/streams",), "stream.root is a server"),
    ],
)
def test_what_needs_shards_gets_them(overrides, words):
    mode, reason = choose_stream(config_of("stream=auto", *overrides), IMAGES, machine())
    assert mode == "precomputed"
    assert words in reason


def test_the_choice_is_settled_before_the_plan(monkeypatch, tmp_path):
    """With a GPU that is not there. What the user sets stays, and a stream that is precomputed must have room."""
    monkeypatch.setattr(run, "prepare", lambda trainer: machine())
    data = Splits(IMAGES, IMAGES, IMAGES)
    common = ("experiment=speedrun", f"stream.root={tmp_path}", "stream.max_gb=1e-6")

    def settled(*overrides):
        return settle(config_of(*common, *overrides), data, list(overrides), Clock())

    choice = settled()
    assert (choice.config.stream.mode, list(choice.reasons)) == ("device", ["stream"])
    for mode in ("precomputed", "online"):
        choice = settled(f"stream={mode}", f"stream.root={tmp_path}")
        assert (choice.config.stream.mode, choice.reasons) == (mode, {})
    monkeypatch.setattr(run, "prepare", lambda trainer: machine("cpu"))
    with pytest.raises(InputError, match=r"more than stream\.max_gb"):
        settled()
