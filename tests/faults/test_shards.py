"""Damaged shards: each is found out before anything of it is read, and written again as it was."""

import random

import pytest
from harness import sha256s, spec_of

from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.loading import load
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.writer import verify_stream, write_stream
from fastconv.system.errors import StreamError

pytestmark = pytest.mark.slow

EPOCHS = 25
CHANGES, TRUNCATIONS = 200, 50


def change_a_byte(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :]


def cut_off(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def test_no_row_of_a_damaged_shard_is_handed_out_and_all_are_mended(tmp_path, digits_root):
    """One damage to each shard of a digits stream at a time. The images are at hand, but nothing is glossed over."""
    data, _ = load("digits", digits_root)
    spec = spec_of(data, Policy(Crop(1), cutout=Cutout(2)))
    folder = write_stream(spec, data, tmp_path, EPOCHS)
    right = {path: path.read_bytes() for path in sorted(folder.rglob("*.tar"))}
    sums = sha256s(folder)
    assert len(right) == EPOCHS, "a shard for each epoch"
    chance = random.Random(0)
    damages = [change_a_byte] * CHANGES + [cut_off] * TRUNCATIONS
    chance.shuffle(damages)
    found = 0
    for at in range(0, len(damages), EPOCHS):
        for (path, content), damage in zip(right.items(), damages[at : at + EPOCHS], strict=True):
            path.write_bytes(damage(content, chance))
        reader = PrecomputedStream(spec, tmp_path, data)
        for epoch, path in enumerate(right):
            row = epoch * len(data) + chance.randrange(len(data))
            with pytest.raises(StreamError) as error:
                reader.rows(row, row + 1)
            assert str(path) in str(error.value)
            found += 1
        reader.close()
        mended = verify_stream(spec, data, tmp_path)
        assert [str(path) in line for path, line in zip(right, mended, strict=True)] == [True] * EPOCHS
        assert sha256s(folder) == sums
    assert found == CHANGES + TRUNCATIONS
