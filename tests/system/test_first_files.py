"""Ranks in threads with folders of their own: each has the first one's files in the end."""

import threading

import pytest
import torch

from fastconv.system import distributed, first_files, rank_store
from fastconv.system.errors import InputError, SharedError
from fastconv.system.first_files import files_from_first_rank

FILES = ("config.yaml", "last.ckpt", "splits.json")


@pytest.fixture
def ranks(monkeypatch):
    """Calls a function on each of some ranks at once; returns what each returned or raised."""
    store, here = torch.distributed.HashStore(), threading.local()
    for module in (distributed, first_files, rank_store):
        monkeypatch.setattr(module, "store", lambda: store)
    for module in (distributed, first_files):
        monkeypatch.setattr(module, "started_together", lambda: True)
        monkeypatch.setattr(module, "is_first_rank", lambda: here.rank == 0)
    for module in (rank_store, first_files):
        monkeypatch.setattr(module, "ASK_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(first_files, "CHUNK_BYTES", 1000)

    def call(*functions):
        found = [None] * len(functions)
        monkeypatch.setattr(first_files, "world", lambda: len(functions))

        def run(rank):
            here.rank = rank
            try:
                found[rank] = functions[rank]()
            except Exception as error:
                found[rank] = error

        threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive(), "a rank waits for ever"
        return found

    call.store = store
    return call


def folder_with(path, **contents):
    path.mkdir()
    for name, content in contents.items():
        (path / name.replace("_", ".")).write_bytes(content)
    return path


def test_a_rank_that_lacks_the_files_gets_them_and_one_that_has_them_keeps_its_own(ranks, tmp_path):
    content = {"config_yaml": b"seed: 1\n", "last_ckpt": bytes(range(256)) * 40}
    first = folder_with(tmp_path / "first", **content, results_json=b"{}")
    stale = folder_with(tmp_path / "stale", config_yaml=b"seed: 1\n", last_ckpt=b"of an earlier run")
    same = folder_with(tmp_path / "same", **content)
    folders = [first, stale, same, tmp_path / "missing"]
    found = ranks(*[lambda folder=folder: files_from_first_rank("run", folder, FILES) for folder in folders])
    assert found[0] == first
    assert found[2] == same
    for copied in (found[1], found[3]):
        assert copied not in (stale, tmp_path / "missing")
        assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
            "config.yaml": b"seed: 1\n",
            "last.ckpt": bytes(range(256)) * 40,
        }
    assert (stale / "last.ckpt").read_bytes() == b"of an earlier run"
    assert not (tmp_path / "missing").exists()
    assert not ranks.store.check(["run/last.ckpt/0"]), "the store keeps no copy"
    first_files.remove_copies()  # before a process ends at once
    assert not found[1].exists()
    assert not found[3].exists()


def test_no_file_is_sent_where_all_see_the_same(ranks, tmp_path):
    first = folder_with(tmp_path / "first", last_ckpt=b"x" * 5000)
    assert ranks(*[lambda: files_from_first_rank("run", first, FILES)] * 3) == [first] * 3
    assert not ranks.store.check(["run/last.ckpt"])


def test_an_error_of_the_first_rank_ends_the_others_too(ranks, tmp_path):
    folder = tmp_path / "first"
    (folder / "last.ckpt").mkdir(parents=True)
    first, second = ranks(*[lambda: files_from_first_rank("run", folder, FILES)] * 2)
    assert isinstance(first, InputError)
    assert not isinstance(first, SharedError)
    assert isinstance(second, SharedError)
    assert "last.ckpt cannot be read" in str(second)
    assert str(first) == str(second)
