"""The stream: one sequence of samples, however it is stored."""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset
from harness import STANDARD, noise, sha256s, spec_of
from omegaconf import OmegaConf

from fastconv.config.overrides import compose
from fastconv.data.augment.plan import plan_epoch
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.color_jitter import ColorJitter
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.batches import SplitBatches, StreamBatches
from fastconv.data.dataset import ImageData
from fastconv.data.loading import load
from fastconv.data.stream import spec as stream
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.data.stream.writer import write_stream
from fastconv.training.datamodule import ShardDataModule

pytestmark = pytest.mark.usefixtures("small_blocks")


def read_plainly(folder, epoch):
    """All images and labels of an epoch by tarfile and numpy alone."""
    images, labels = [], []
    for path in sorted((folder / f"epoch-{epoch:04d}").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                array = np.load(io.BytesIO(tar.extractfile(member).read()), allow_pickle=False)
                (images if member.name.endswith(".x.npy") else labels).append(array)
    return np.concatenate(images), np.concatenate(labels)


# -- the same bytes


def test_online_and_precomputed_batches_are_the_same(images, tmp_path):
    """Over two epochs and their boundary, in batches that divide neither blocks nor epochs."""
    spec = spec_of(images)
    write_stream(spec, images, tmp_path, 2)
    streams = OnlineStream(spec, images), PrecomputedStream(spec, tmp_path, None)
    pairs = zip(*(StreamBatches(each, batch_size=12, micro_batch_size=4) for each in streams), strict=True)
    for _, (online, stored) in zip(range(2 * 57 // 12), pairs, strict=False):
        for a, b in zip(online, stored, strict=True):
            assert a.dtype == b.dtype
            assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize(
    "policy",
    [
        Policy(Crop(2, "reflect"), Flip(0.5, "alternating"), Cutout(3), ColorJitter(0.14, 0.13)),
        *(Policy(Crop(1), auto=name) for name in ("rand_augment", "trivial_augment", "augmix")),
    ],
    ids=str,
)
def test_every_policy_streams_the_same_bytes(tmp_path, policy):
    """Written by several threads at once, and computed alone with the last epoch first."""
    data = noise(31, 3)
    spec = spec_of(data, policy)
    write_stream(spec, data, tmp_path, 2)
    stored = PrecomputedStream(spec, tmp_path, None)
    for epoch in (1, 0):
        online = OnlineStream(spec, data).rows(31 * epoch, 31 * (epoch + 1))
        for a, b in zip(online, stored.rows(31 * epoch, 31 * (epoch + 1)), strict=True):
            np.testing.assert_array_equal(a, b)
    content = json.loads((tmp_path / spec.folder / "manifest.json").read_text())
    assert content["policy"] == dataclasses.asdict(policy)
    assert ("libraries" in content) == (policy.auto != "none")
    assert Manifest.read(tmp_path / spec.folder, spec).epochs == 2


def test_digits_stream_the_same_from_every_place(digits_root, tmp_path):
    """Real images: online, precomputed, and read with tarfile and numpy."""
    train, _ = load("digits", digits_root)
    spec = spec_of(train)
    write_stream(spec, train, tmp_path, 2)
    online, stored = OnlineStream(spec, train), PrecomputedStream(spec, tmp_path, None)
    for epoch in (0, 1):
        rows = (epoch * len(train), (epoch + 1) * len(train))
        plain = read_plainly(tmp_path / spec.folder, epoch)
        for a, b, c in zip(online.rows(*rows), stored.rows(*rows), plain, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


def test_webdataset_reads_the_shards(built):
    data, spec, root = built
    urls = [str(path) for path in sorted((root / spec.folder).rglob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    images = np.concatenate([sample["x.npy"] for sample in samples])
    labels = np.concatenate([sample["y.npy"] for sample in samples])
    expected = OnlineStream(spec, data).rows(0, 2 * 57)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    assert len({sample["__key__"] for sample in samples}) == len(samples), "keys are unique over the stream"


def test_every_sample_appears_once_per_epoch(tmp_path):
    data = noise(57, 1)
    spec = spec_of(data, Policy())
    write_stream(spec, data, tmp_path, 2)
    expected = Counter(image.tobytes() for image in data.images)
    for epoch in (0, 1):
        assert Counter(image.tobytes() for image in read_plainly(tmp_path / spec.folder, epoch)[0]) == expected


def test_two_builds_have_equal_sha256(built, tmp_path_factory):
    data, spec, root = built
    again = tmp_path_factory.mktemp("again")
    write_stream(spec, data, again, 1)
    write_stream(spec, data, again, 2)  # in two goes
    assert sha256s(again / spec.folder) == sha256s(root / spec.folder)
    assert len(sha256s(again)) == 4
    manifests = [(folder / spec.folder / "manifest.json").read_bytes() for folder in (root, again)]
    assert manifests[0] == manifests[1]


def test_manifest_tells_what_the_files_are(built):
    _, spec, root = built
    content = json.loads((root / spec.folder / "manifest.json").read_text())
    assert content["shape"] == [9, 11, 3]
    assert content["mean"] == [0.2, 0.5, 0.8]
    for name, entry in content["shards"].items():
        data = (root / spec.folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
    assert sum(entry["samples"] for entry in content["shards"].values()) == 2 * 57


def test_fingerprint_follows_everything_that_decides_a_byte():
    data = noise(57, 3)
    spec = spec_of(data)
    others = [
        spec_of(data, seed=4),
        spec_of(data, Policy(cutout=Cutout(3))),
        spec_of(data.take(np.arange(57)[::-1])),
        spec_of(data.take(np.arange(56))),
        dataclasses.replace(spec, mean=(0.1, 0.5, 0.8)),
    ]
    others += [
        spec_of(data, dataclasses.replace(spec.policy, **changed))
        for changed in (
            {"flip": Flip(0.5, "alternating")},
            {"color_jitter": ColorJitter(brightness=0.1)},
            {"color_jitter": ColorJitter(contrast=0.1)},
            {"auto": "augmix"},
            {"auto": "rand_augment"},
            {"auto": "rand_augment", "num_ops": 3},
            {"auto": "rand_augment", "magnitude": 3},
        )
    ]
    assert len({each.fingerprint for each in [spec, *others]}) == 13


@pytest.mark.parametrize(
    ("policy", "fingerprint"),
    [
        (STANDARD, "582eb7a2a01bdadc"),
        (Policy(), "0db2f33a376dd580"),
        (Policy(Crop(4, "reflect")), "7b1ebdb5ad0e2d82"),
    ],
    ids=str,
)
def test_streams_written_before_there_were_colours_and_policies_stay_valid(policy, fingerprint):
    assert spec_of(noise(57, 3), policy).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        (["augment=translate", "augment.color_jitter.brightness=0.1", "augment.color_jitter.contrast=0.2"],
         "digits-73a48a4f38d64fc2"),
        (["augment=standard", "augment.auto=rand_augment"], "digits-ed45453e7f444e89"),
        (["augment=none", "augment.auto=augmix"], "digits-838030e32c258a8d"),
    ],
)  # fmt: skip
def test_streams_of_earlier_versions_are_found_again(digits_root, monkeypatch, overrides, folder):
    """With the pinned torchvision and Pillow, whose versions are a part of the last two."""
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 1000)
    config = OmegaConf.to_object(compose("train", ["dataset=digits", *overrides]))
    train, _ = load("digits", digits_root)
    assert stream_spec(train, config.augment, config.stream.seed).folder == folder


def test_another_torchvision_is_another_stream_for_its_policies_alone(monkeypatch):
    specs = [spec_of(noise(57, 3), Policy(auto=name)) for name in ("none", "augmix")]
    before = [spec.fingerprint for spec in specs]
    monkeypatch.setattr(stream, "library_versions", lambda: {"torchvision": "0.1", "pillow": "1"})
    assert [spec.fingerprint == old for spec, old in zip(specs, before, strict=True)] == [True, False]


# -- reading


def test_rows_cross_blocks_shards_and_epochs(built):
    data, spec, root = built
    whole = [PrecomputedStream(spec, root, None).rows(*part)[0] for part in ((0, 57), (57, 114))]
    expected = np.concatenate(whole)
    reader = PrecomputedStream(spec, root, None)
    for start, stop in ((0, 1), (9, 11), (29, 31), (25, 75), (56, 58), (0, 114)):
        np.testing.assert_array_equal(reader.rows(start, stop)[0], expected[start:stop])
    plan = plan_epoch(spec.seed, 1, 57, 9, 11, spec.policy)
    np.testing.assert_array_equal(reader.rows(57, 114)[1], data.labels[plan.order])


def test_torch_takes_blocks_without_a_copy_and_cannot_change_the_file(built):
    _, spec, root = built
    reader = PrecomputedStream(spec, root, None)
    before = sha256s(root)
    images, _ = reader.rows(0, 10)
    tensor = torch.from_numpy(images)
    assert tensor.data_ptr() == images.ctypes.data
    tensor.zero_()
    assert not reader.rows(0, 10)[0].any(), "the same memory"
    reader.close()
    assert sha256s(root) == before


def test_ranks_share_each_batch(built):
    data, spec, _ = built
    online = OnlineStream(spec, data)
    whole = iter(StreamBatches(online, batch_size=16, micro_batch_size=16))
    ranks = [iter(StreamBatches(online, 16, 4, rank, 2)) for rank in (0, 1)]
    for _ in range(8):
        (batch,) = next(whole)[0].numpy()
        parts = [part for each in ranks for part in next(each)[0].numpy()]
        assert [part.shape for part in parts] == [(4, *batch.shape[1:])] * 4
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_splits_are_scored_whole_and_once():
    data = noise(1201, 1)
    batches = SplitBatches(data)
    images = np.concatenate([batch.numpy() for batch, _ in batches])
    np.testing.assert_array_equal(images, data.images)
    assert len(batches) == 3
    assert [len(SplitBatches(data, 1001, rank, 2)) for rank in (0, 1)] == [2, 2], "ranks take as many steps"
    ranks = [image for rank in (0, 1) for some, _ in SplitBatches(data, None, rank, 2) for image in some.numpy()]
    assert sorted(map(bytes, ranks)) == sorted(map(bytes, data.images))
    sample = np.concatenate([labels.numpy() for _, labels in SplitBatches(data, 100)])
    np.testing.assert_array_equal(sample, data.labels[np.linspace(0, 1201, 100, endpoint=False).astype(int)])


def test_large_images_are_scored_few_at_once():
    """500 of them would fill the memory with activations. Batches of small ones are as large as ever."""
    for side, most in ((28, 500), (32, 500), (224, 40)):
        images = np.broadcast_to(np.uint8(0), (1201, side, side, 3))
        data = ImageData("pictures", images, np.arange(1201), tuple(map(str, range(1201))), "")
        wanted = np.array_split(data.labels, -(-1201 // most))
        found = [batch.tolist() for _, batch in SplitBatches(data)]
        assert found == [part.tolist() for part in wanted]


def test_module_without_validation_has_none(built):
    data, spec, _ = built
    module = ShardDataModule(OnlineStream(spec, data), 16, 4, None, None, data)
    assert module.val_dataloader() == []
