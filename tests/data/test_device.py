"""The stream that is augmented on the device that trains: here on a CPU, against what is stored in shards."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from harness import STANDARD, noise, spec_of
from omegaconf import OmegaConf

from fastconv.config.overrides import compose, group_options
from fastconv.data.augment.plan import BalancedSampling, SkipSchedule
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.color_jitter import ColorJitter
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.batches import StreamBatches
from fastconv.data.stream.device import DeviceStream
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import stream_spec
from fastconv.data.stream.writer import write_stream
from fastconv.system.errors import InputError

pytestmark = pytest.mark.usefixtures("small_blocks")

CPU = torch.device("cpu")
EVERYTHING = Policy(Crop(2, "reflect"), Flip(0.5, "alternating"), Cutout(3), ColorJitter(0.14, 0.13))
SKIPS = SkipSchedule(np.array([0] * 33 + [1] * 12 + [2] * 12, np.int8))
INVERT = """
class Invert:
    def draw(self, draws):
        return draws.chances(0.5)

    def apply(self, images, drawn, fill):
        images[drawn] = 255 - images[drawn]


class InvertOnDevice(Invert):
    def apply_on_device(self, images, drawn, fill):
        return (255 - images).where(drawn[:, None, None, None], images)


class Wrong(InvertOnDevice):
    def apply_on_device(self, images, drawn, fill):
        return images.float()
"""


def policies():
    """Those of conf/augment, and the limits of each setting that images of 9x11 pixels allow."""
    found = {}
    for name in group_options("augment"):
        given = ["dataset=digits", f"augment={name}", *["augment.cutout.size=5"] * (name == "airbench96")]
        found[name] = OmegaConf.to_object(compose("train", given)).augment
    found["everything"] = EVERYTHING
    found["largest"] = Policy(Crop(8, "reflect"), Flip(1.0), Cutout(8), ColorJitter(1.0, 1.0))
    found["widest"] = Policy(Crop(9, "constant"), cutout=Cutout(1), color_jitter=ColorJitter(brightness=1.0))
    return found


def device_stream(spec, data, **settings):
    stream = DeviceStream(spec, data, **settings)
    stream.place_on(CPU)
    return stream


def same_bytes(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize(("name", "policy"), policies().items(), ids=policies())
def test_batches_are_those_of_the_shards(images, tmp_path, name, policy):
    """Over three epochs and their boundaries, in batches that divide neither blocks nor epochs."""
    spec = spec_of(images, policy)
    write_stream(spec, images, tmp_path, 3)
    streams = device_stream(spec, images), PrecomputedStream(spec, tmp_path, None)
    pairs = zip(*(StreamBatches(each, batch_size=24, micro_batch_size=4) for each in streams), strict=True)
    for found, expected in itertools.islice(pairs, 3 * 57 // 24):
        same_bytes(found, expected)


@pytest.mark.parametrize("sampling", [False, True], ids=["each once", "balanced"])
@pytest.mark.parametrize("skips", [None, SKIPS], ids=["all", "pruned"])
def test_pruned_and_balanced_epochs_are_those_of_the_shards(images, tmp_path, skips, sampling):
    labels = np.random.default_rng(0).choice(3, 57, p=(0.6, 0.3, 0.1))
    data = dataclasses.replace(
        images, labels=labels, skip_schedule=skips, sampling=BalancedSampling(labels) if sampling else None
    )
    spec = stream_spec(data, EVERYTHING, 5)
    write_stream(spec, data, tmp_path, 3)
    expected = PrecomputedStream(spec, tmp_path, None).rows(0, 3 * spec.samples)
    same_bytes(device_stream(spec, data).tensors(0, 3 * spec.samples), map(torch.from_numpy, expected))


@pytest.mark.parametrize("ahead", [False, True])
def test_any_part_can_be_read_at_any_time(built, ahead):
    """As a resumed run does, with and without a thread that plans the next epoch."""
    data, spec, root = built
    stored, stream = PrecomputedStream(spec, root, None), device_stream(spec, data, plans_ahead=ahead)
    for start, stop in ((0, 30), (30, 60), (60, 114), (56, 58), (0, 1), (100, 114), (50, 110)):
        same_bytes(stream.tensors(start, stop), map(torch.from_numpy, stored.rows(start, stop)))
    np.testing.assert_array_equal(stream.rows(3, 20)[0], stored.rows(3, 20)[0])
    stream.close()


def test_the_next_epoch_is_planned_while_this_one_is_read(built, monkeypatch):
    data, spec, _ = built
    planned, plan = [], type(spec).plan
    monkeypatch.setattr(type(spec), "plan", lambda self, data, epoch: planned.append(epoch) or plan(self, data, epoch))
    stream = device_stream(spec, data, plans_ahead=True)
    stream.tensors(0, 10)
    stream.close()  # waits for the thread
    assert planned == [0, 1]
    stream = device_stream(spec, data)
    stream.tensors(0, 57)
    assert planned == [0, 1, 0]


def test_ranks_share_each_batch(built):
    data, spec, root = built
    whole = iter(StreamBatches(PrecomputedStream(spec, root, None), 16, 16))
    ranks = [iter(StreamBatches(device_stream(spec, data), 16, 4, rank, 2)) for rank in (0, 1)]
    for _ in range(7):
        parts = [next(each) for each in ranks]  # two microbatches of each
        images, labels = (torch.cat(found).flatten(0, 1) for found in zip(*parts, strict=True))
        same_bytes((images, labels), (part.flatten(0, 1) for part in next(whole)))


def test_batches_begin_where_a_resumed_run_goes_on(built):
    data, spec, _ = built
    whole = list(itertools.islice(StreamBatches(device_stream(spec, data), 12, 6), 9))
    resumed = StreamBatches(device_stream(spec, data), 12, 6, first=5)
    for found, expected in zip(resumed, whole[5:], strict=False):
        same_bytes(found, expected)


def test_batches_do_not_depend_on_what_their_reader_does_to_them(built):
    data, spec, _ = built
    stream = device_stream(spec, data)
    expected = stream.tensors(0, 57)[0].clone()
    stream.tensors(0, 57)[0].zero_()
    assert torch.equal(stream.tensors(0, 57)[0], expected)
    assert data.images.any()


def test_images_are_copied_to_the_device_once_in_their_segment_of_the_clock(built):
    data, spec, _ = built
    entered = []

    class Segment:
        __enter__ = __exit__ = lambda self, *_: entered.append(1)

    stream = device_stream(spec, data, timed=Segment)
    stream.place_on(CPU)
    assert len(entered) == 2  # in and out


def test_large_images_are_copied_in_parts(built, monkeypatch):
    data, spec, _ = built
    expected = device_stream(spec, data).tensors(0, 57)
    monkeypatch.setattr("fastconv.data.stream.device.COPIED_BYTES", 1000)
    monkeypatch.setattr("fastconv.data.stream.device.MAPPED_BYTES", 1000)
    same_bytes(device_stream(spec, data).tensors(0, 57), expected)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "devicecode.py").write_text(INVERT)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: Policy(Crop(1), extra=[{"_target_": f"devicecode.{name}"}])


def test_a_users_own_transform_is_applied_on_the_device(own, tmp_path):
    data, policy = noise(57, 3), own("InvertOnDevice")
    assert policy.only_on_host() == []
    spec = spec_of(data, policy)
    write_stream(spec, data, tmp_path, 1)
    expected = PrecomputedStream(spec, tmp_path, None).rows(0, 57)
    same_bytes(device_stream(spec, data).tensors(0, 57), map(torch.from_numpy, expected))
    with pytest.raises(InputError, match=r"Wrong.apply_on_device must return images uint8, 57x9x11x3"):
        device_stream(spec_of(data, own("Wrong")), data).tensors(0, 57)


def test_transforms_that_need_the_host_are_named(own):
    assert own("Invert").only_on_host() == ["devicecode.Invert"]
    assert Policy(auto="augmix").only_on_host() == ["augment.auto=augmix"]
    assert Policy(num_ops=3, magnitude=4).only_on_host() == [], "settings of a policy that is off"
    assert [STANDARD.only_on_host(), EVERYTHING.only_on_host(), Policy().only_on_host()] == [[], [], []]
    with pytest.raises(InputError, match=r"stream=device cannot do auto: use stream=precomputed"):
        device_stream(spec_of(noise(31, 3), Policy(auto="augmix")), noise(31, 3)).tensors(0, 1)
