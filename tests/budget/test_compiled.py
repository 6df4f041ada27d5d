"""What a compiler made is kept for the next run, in a place that is the user's alone."""

import dataclasses
import functools
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from fastconv.budget import compiled
from fastconv.budget.autotune.settings import Autotune
from fastconv.budget.clock import Clock
from fastconv.budget.compiled import compiled_file, compiling_pays, is_kept, keep_compiled, load_compiled
from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.training.callbacks import CompileStep

GPU = Device("cuda", "a GPU", "bf16", threads=1, keep_memory=False, compile=True)
MADE = b"what the compiler made"


class Compiler:
    """torch's compiler, as far as it gives and takes what it has made."""

    def __init__(self):
        self.taken = []

    def save_cache_artifacts(self):
        return MADE, None

    def load_cache_artifacts(self, artifacts):
        self.taken.append(artifacts)
        return object()


@pytest.fixture
def compiler(monkeypatch):
    made = Compiler()
    monkeypatch.setattr(compiled, "torch", SimpleNamespace(compiler=made, __version__=torch.__version__))
    return made


@functools.cache
def config():
    return OmegaConf.to_object(compose("train", ["dataset=digits"]))


def file_of(device=GPU, shape=(8, 8, 1), **changes):
    return compiled_file(dataclasses.replace(config(), **changes), shape, 10, device)


def test_what_was_made_is_taken_again(compiler, user_cache):
    path = file_of()
    assert path.parent == user_cache
    assert not load_compiled(path)
    assert not is_kept(path)
    keep_compiled(path)
    assert is_kept(path)
    assert load_compiled(path)
    assert compiler.taken == [MADE]


def test_each_step_has_a_file_of_its_own(user_cache):
    wide = dataclasses.replace(config().model, width=8)
    paths = [file_of(), file_of(model=wide), file_of(micro_batch_size=64), file_of(label_smoothing=0.1)]
    paths += [file_of(device=dataclasses.replace(GPU, name="another GPU")), file_of(shape=(8, 8, 3))]
    assert len(set(paths)) == len(paths)
    assert file_of(seed=3, outputs="elsewhere") == paths[0]


@pytest.mark.parametrize("harm", ["changed", "cut", "empty", "writable", "link"])
def test_code_that_may_be_of_somebody_else_is_not_taken(compiler, user_cache, harm):
    path = file_of()
    keep_compiled(path)
    content = path.read_bytes()
    if harm == "writable":
        path.chmod(0o666)
    elif harm == "link":
        path.rename(user_cache / "other")
        path.symlink_to(user_cache / "other")
    else:
        path.write_bytes({"changed": content[:-1] + b"X", "cut": content[:-1], "empty": b""}[harm])
    assert not load_compiled(path)
    assert compiler.taken == []


def test_a_cache_that_others_can_write_to_is_not_used(user_cache):
    assert file_of() is not None
    user_cache.chmod(0o777)
    assert file_of() is None
    assert not is_kept(None)


def test_where_nothing_can_be_kept_nothing_fails(compiler, user_cache, monkeypatch):
    path = file_of()
    user_cache.rmdir()
    user_cache.write_text("a file where the folder should be")
    keep_compiled(path)
    assert not load_compiled(path)
    monkeypatch.setattr(compiler, "load_cache_artifacts", lambda artifacts: 1 / 0)
    user_cache.unlink()
    keep_compiled(path)
    assert not load_compiled(path)


def test_compiling_must_save_more_than_it_takes(compiler, user_cache):
    """Of 100 s, a fifth is 20 s: compiling anew takes longer, and with what is kept it does not."""
    settings = Autotune(compile_saves=0.2, compile_seconds=30, compile_kept_seconds=10)
    path = file_of()

    def pays(seconds, *counts):
        budget = dataclasses.replace(config().budget, seconds=seconds, counts=["train", *counts])
        return compiling_pays(dataclasses.replace(config(), budget=budget), path, settings)

    assert [pays(seconds, "compile") for seconds in (10, 100, 140, 160)] == [False, False, False, True]
    assert pays(10), "if compiling is not counted"
    assert pays(None, "compile")
    keep_compiled(path)
    assert [pays(seconds, "compile") for seconds in (10, 40, 60, 100)] == [False, False, True, True]


def test_a_step_is_compiled_from_what_is_kept(compiler, user_cache, simulated_time):
    """The first run keeps it, the second takes it and writes nothing."""
    path, clock, done = file_of(), Clock(), []
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(train_step_context=lambda: torch.no_grad()))
    module = SimpleNamespace(
        device=torch.device("cpu"), compile_training=lambda batch: done.append([*compiler.taken, batch[0].shape])
    )
    callback = CompileStep(clock, (4, 8, 8, 1), path)
    callback.on_fit_start(trainer, module)
    written = path.stat().st_mtime_ns
    callback.on_fit_start(trainer, module)
    assert done == [[(4, 8, 8, 1)], [MADE, (4, 8, 8, 1)]]
    assert path.stat().st_mtime_ns == written
    CompileStep(clock, (4, 8, 8, 1)).on_fit_start(trainer, module)
    assert len(done) == 3
    assert clock.seconds()["compile"] > 0


@pytest.mark.slow
def test_torch_takes_what_torch_has_made(user_cache, monkeypatch, tmp_path):
    """With a compiler of the machine, in a cache of its own that is emptied in between."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "one"))
    path = file_of()
    work = torch.compile(lambda x: (x.sin() + x).sum())
    expected = work(torch.ones(100))
    keep_compiled(path)
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "other"))
    assert load_compiled(path)
    assert any((tmp_path / "other").rglob("*"))
    assert torch.equal(torch.compile(lambda x: (x.sin() + x).sum())(torch.ones(100)), expected)
