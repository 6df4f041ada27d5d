"""A disk that is too small, and one that fills up: a clear line, and a stream that is whole in the end."""

import json
import os
import shutil
import subprocess

import pytest
from harness import run_command, sha256s

from fastconv.config import prerequisites
from fastconv.data.stream import writer
from fastconv.system.files import SPARE_BYTES

pytestmark = pytest.mark.slow

OVERRIDES = ("dataset=digits", "model.width=8", "trainer=cpu", "trainer.precision=fp32", "budget.seconds=9")
EPOCHS = 800  # 88 MB


@pytest.fixture
def small_disk(tmp_path):
    """(folder, resize): a disk of 40 MB in memory, and a function that gives it another size in MB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False
        )

    if shutil.which("mount") is None or mount("-o", "size=40m").returncode:
        pytest.skip("mounting is not permitted here")
    yield folder, lambda megabytes: mount("-o", f"remount,size={megabytes}m").check_returncode()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def right(tmp_path_factory, digits_root):
    """sha256 of each shard, written where there is room."""
    folder = tmp_path_factory.mktemp("right")
    ended = run_command(folder, digits_root, "precompute", *OVERRIDES, f"stream.epochs={EPOCHS}", "stream.root=.")
    assert ended.code == 0, ended.err
    return sha256s(folder)


def in_manifest(root):
    """{path in the folder of streams: time of its last change} of the shards that the only manifest names."""
    (manifest,) = root.glob("*/manifest.json")
    shards = json.loads(manifest.read_text())["shards"]
    return {f"{manifest.parent.name}/{name}": (manifest.parent / name).stat().st_mtime_ns for name in shards}


def check_rest(folder, right, kept):
    """What a writer without space left is whole; `kept` is what the manifest knew of it."""
    found = sha256s(folder)
    assert not list(folder.rglob("*.part"))
    assert 0 < len(kept) < EPOCHS
    assert {name: found[name] for name in kept} == {name: right[name] for name in kept}


@pytest.mark.parametrize("name", ["precompute", "train"])
def test_a_disk_that_is_too_small_is_refused(tmp_path, digits_root, small_disk, name):
    folder, _ = small_disk
    overrides = (*OVERRIDES, f"stream.epochs={EPOCHS}", f"stream.root={folder}/streams")
    ended = run_command(tmp_path, digits_root, name, *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "the stream of digits needs" in ended.err
    assert "MB to spare" in ended.err
    assert "stream.root" in ended.err
    assert not [path for path in folder.rglob("*.*") if path.is_file() and path.parent.name != ".locks"]


def test_a_disk_that_fills_up_is_told_before_it_is_full(tmp_path, digits_root, small_disk, right, monkeypatch):
    """Another file grows on it until less is left than is kept to spare."""
    folder, resize = small_disk
    resize(250)
    overrides = (*OVERRIDES, f"stream.epochs={EPOCHS}", f"stream.root={folder}")
    write_shard, written = writer.write_shard, []

    def beside_another(path, blocks):
        written.append(path)
        if len(written) == 100:
            with (folder / "another").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - SPARE_BYTES)
        return write_shard(path, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_shard", beside_another)
        ended = run_command(tmp_path, digits_root, "precompute", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "a shard of the stream of digits needs" in ended.err
    kept = in_manifest(folder)
    check_rest(folder, right, kept)
    assert set(kept) == set(sha256s(folder)), "all that was finished"
    (folder / "another").unlink()
    assert run_command(tmp_path, digits_root, "precompute", *overrides).code == 0
    assert sha256s(folder) == right
    assert {name: in_manifest(folder)[name] for name in kept} == kept, "and none of it was written again"


def test_a_disk_that_is_full_all_of_a_sudden(tmp_path, digits_root, small_disk, right, monkeypatch):
    """No check foresees it, as with a quota: the system refuses a write."""
    folder, resize = small_disk
    overrides = (*OVERRIDES, f"stream.epochs={EPOCHS}", f"stream.root={folder}")
    with monkeypatch.context() as patch:
        for module in (writer, prerequisites):
            patch.setattr(module, "require_space", lambda *_: None)
        patch.setattr(writer, "MANIFEST_SECONDS", 0)
        ended = run_command(tmp_path, digits_root, "precompute", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"cannot write {folder}" in ended.err
    assert "No space left on device. Free some space" in ended.err
    kept = in_manifest(folder)
    check_rest(folder, right, kept)
    resize(250)
    assert run_command(tmp_path, digits_root, "precompute", *overrides).code == 0
    assert sha256s(folder) == right
    assert {name: in_manifest(folder)[name] for name in kept} == kept
    assert "every shard is right\n" in run_command(tmp_path, digits_root, "precompute", *overrides, "verify=true").out
