"""The learning-rate range test: its losses are those of real steps, its suggestion learns, and it leaves no mess."""

import csv
import dataclasses
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from harness import Unseen, files, run_command
from omegaconf import OmegaConf

from fastconv.analysis import run_figures
from fastconv.config.commands import RangeTest
from fastconv.config.overrides import compose
from fastconv.data.loading import load, open_splits
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.models import build_model
from fastconv.system.errors import InputError
from fastconv.training.lr_range_test import LossCurve, LRRangeTest, conclusions

SMALL = ("model.width=8", "batch_size=64", "micro_batch_size=32", "trainer=cpu", "trainer.precision=fp32")
SHORT = (*SMALL, "range_test.steps=20", "range_test.min_lr=0.01", "range_test.max_lr=1")


def read(path):
    """(learning rates, losses, smoothed losses)."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["learning_rate", "loss", "smoothed_loss"]
    return np.array(rows, dtype=float).T


@pytest.fixture(scope="module")
def found(tmp_path_factory, digits_root):
    """(folder from which it ran, folder of its result, what was printed) of a range test on digits."""
    folder = tmp_path_factory.mktemp("found")
    ended = run_command(folder, digits_root, "lr_find", "dataset=digits", *SMALL)
    assert ended.code == 0, ended.err
    (result,) = (folder / "outputs" / "digits").iterdir()
    return folder, result, ended.out


def test_the_suggestion_learns(found, digits_root, tmp_path):
    override = re.search(r"optimizer\.max_lr=\S+", found[2])[0]
    assert 0.01 < float(override.split("=")[1]) < 10
    settings = (*SMALL, "budget.seconds=null", "schedule.max_epochs=3", "stream=online", "validate.on=none")
    ended = run_command(tmp_path, digits_root, "train", "dataset=digits", *settings, override)
    assert ended.code == 0, ended.err
    (metrics,) = tmp_path.rglob("metrics.csv")
    losses = run_figures.read_metrics(metrics)["train/loss"]
    assert np.nanmean(losses[-5:]) < 0.5 * losses[0]


def test_learning_rates_grow_by_the_same_factor(found):
    rates, losses, smoothed = read(found[1] / "lr_find.csv")
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 10, 100)[: len(rates)], rtol=1e-12)
    assert len(losses) == len(smoothed) > 50
    assert smoothed.min() < 0.7 * losses[0], "it has learned meanwhile"


def test_losses_are_those_of_a_plain_loop(found, digits_root):
    """Batches of 64 in parts of 32, from the same first weights, with torch's own SGD."""
    rates, losses, _ = read(found[1] / "lr_find.csv")
    train, _ = load("digits", digits_root)
    config = OmegaConf.to_object(compose("train", ["dataset=digits"]))
    spec = stream_spec(train, config.augment, config.stream.seed)
    stream = OnlineStream(spec, train)
    torch.manual_seed(0)
    model = build_model("davidnet", channels=1, classes=10, width=8, logits_scale=0.125)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    expected = []
    for step in range(10):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        parts = []
        for start in (64 * step, 64 * step + 32):
            images, labels = map(torch.from_numpy, stream.rows(start, start + 32))
            pixels = (images.permute(0, 3, 1, 2) / 255 - spec.mean[0]) / spec.std[0]
            parts.append(F.cross_entropy(model(pixels), labels))
        optimizer.zero_grad()
        torch.stack(parts).mean().backward()
        optimizer.step()
        expected.append(torch.stack(parts).mean().item())
    np.testing.assert_allclose(losses[:10], expected, rtol=1e-4)


def test_leaves_losses_figure_and_config_and_nothing_else(found):
    folder, result, _ = found
    assert re.fullmatch(r"lr_find-\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{6}", result.name)
    assert files(result) == ["lr_find.csv", "lr_find.png", "lr_find.yaml"]
    assert OmegaConf.load(result / "lr_find.yaml").model.width == 8
    assert files(folder)[:2] == ["outputs", "outputs/digits"]
    assert len(files(folder)) == 6


def test_config_is_that_of_the_run():
    for overrides in ([], ["dataset=cifar10", "experiment=original", "augment=none"], ["schedule=step", "trainer=ddp"]):
        ours, runs = (OmegaConf.to_container(compose(name, overrides), resolve=True) for name in ("lr_find", "train"))
        assert ours.pop("range_test") == {"min_lr": 1e-4, "max_lr": 10.0, "steps": 100, "early_stop_threshold": 4.0}
        assert ours == runs


def test_never_looks_at_the_test_split(command, monkeypatch):
    def with_unseen_test(*arguments):
        return dataclasses.replace(open_splits(*arguments), test=Unseen(359))

    monkeypatch.setattr("fastconv.config.prerequisites.open_splits", with_unseen_test)
    ended = command("lr_find", "dataset=digits", *SHORT)
    assert ended.code == 0, ended.err


def test_a_sweep_leaves_a_result_for_each_job(command, tmp_path):
    ended = command("lr_find", "-m", "dataset=digits", *SHORT, "seed=0,1")
    assert ended.code == 0, ended.err
    first, second = (read(path)[1] for path in sorted(tmp_path.glob("outputs/sweeps/*/*/lr_find.csv")))
    assert first[0] != second[0]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["range_test.min_lr=0"], "range_test.min_lr=0.0 is not possible: give a number in (0, 1000]"),
        (["range_test.min_lr=1", "range_test.max_lr=0.1"], "range_test.min_lr=1 is not possible: give less than"),
        (["range_test.max_lr=inf"], "range_test.max_lr=inf is not possible"),
        (["range_test.steps=3"], "range_test.steps=3 is not possible: give a number of steps in [20, 100000]"),
        (["range_test.steps=null"], "range_test.steps cannot be null"),
        (["range_test.early_stop_threshold=1"], "range_test.early_stop_threshold=1.0 is not possible"),
        (["range_test.min_rl=1"], "unknown key range_test.min_rl; did you mean range_test.min_lr?"),
        (["dataset=fashon_mnist"], "unknown dataset fashon_mnist; did you mean fashion_mnist?"),
        (["batch_size=300"], "multiple of micro_batch_size"),
        (["trainer=ddp"], "a range test runs on one device"),
        (["seed=0,1"], "add -m"),
        (["-m", "range_test.steps=20,1"], "job 1: range_test.steps=1 is not possible"),
        (["outputs=/proc/nowhere"], "cannot write /proc/nowhere"),
    ],
    ids=str,
)
def test_bad_input_gets_one_line(command, tmp_path, overrides, says):
    ended = command("lr_find", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err
    assert files(tmp_path) == []


def test_a_loss_that_never_falls_suggests_nothing(command, tmp_path):
    ended = command("lr_find", "dataset=digits", *SHORT, "range_test.min_lr=1e-9", "range_test.max_lr=1e-8")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "the loss never falls" in ended.err
    assert "optimizer.max_lr=" not in ended.out
    assert files(tmp_path) == []


def test_a_full_disk_leaves_no_half_written_result(command, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_figures, "draw_range_test", full)
    ended = command("lr_find", "dataset=digits", *SHORT)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "No space left on device" in ended.err
    assert [name for name in files(tmp_path) if "lr_find" in name] == []


def test_ctrl_c_leaves_nothing(command, tmp_path, monkeypatch):
    before = LRRangeTest.on_train_batch_end

    def interrupt(self, trainer, pl_module, outputs, batch, batch_idx):
        before(self, trainer, pl_module, outputs, batch, batch_idx)
        if batch_idx == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LRRangeTest, "on_train_batch_end", interrupt)
    ended = command("lr_find", "dataset=digits", *SHORT)
    assert (ended.code, ended.err) == (130, "fastconv: ended by SIGINT\n")
    assert files(tmp_path) == []


# -- what a curve says


def curve(losses, exploded_at=None):
    losses = np.asarray(losses, dtype=float)
    return LossCurve(np.geomspace(1e-4, 10, len(losses)), losses, sigma=2.0, exploded_at=exploded_at)


def valley(bottom):
    """Flat, falling from step 40 to `bottom`, and rising from there on, in noise."""
    steps = np.arange(100)
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    return np.interp(steps, [0, 40, bottom, 99], [2.3, 2.3, 0.8, 3.0]) + noise


def test_the_suggestion_is_the_bottom_of_the_valley():
    found = curve(valley(70))
    assert abs(found.last_fall - 70) <= 2
    assert 40 <= found.steepest <= 70
    line, hint = conclusions(found, RangeTest())
    assert "rises after" in line
    assert hint.endswith(f"optimizer.max_lr={found.suggestion:.2g}")


def test_what_comes_after_the_first_rise_does_not_count():
    losses = valley(60)
    losses[85:] = 0.1
    assert abs(curve(losses).last_fall - 60) <= 2


def test_one_exploded_loss_does_not_reach_far_back():
    losses = np.concatenate([valley(70)[:75], [1e9]])
    assert abs(curve(losses, exploded_at=3.0).last_fall - 70) <= 2
    assert "rises after" in conclusions(curve(np.linspace(2.3, 0.5, 50), exploded_at=3.0), RangeTest())[0]
    assert "explodes at 3" in conclusions(curve(losses, exploded_at=3.0), RangeTest())[0]


def test_a_loss_that_falls_to_the_end_asks_for_a_larger_range():
    assert "larger range_test.max_lr" in conclusions(curve(np.linspace(2.3, 0.5, 50)), RangeTest())[0]


def test_too_few_losses_suggest_nothing():
    with pytest.raises(InputError, match=r"exploded at learning rate 0\.5 already, after 5 losses: too few"):
        conclusions(curve([2.3, 2.2, 2.0, 1.8, 1.7], exploded_at=0.5), RangeTest())


@pytest.mark.parametrize(("losses", "steps"), [([2.0] * 9 + [100.0] * 11, 10), ([1.0] * 4 + [float("nan")], 5)])
def test_an_explosion_ends_the_test(losses, steps):
    callback = LRRangeTest(RangeTest(steps=20), momentum=0.85)
    group = {"lr": 1.0, "momentum": 0.9}
    trainer = SimpleNamespace(should_stop=False, optimizers=[SimpleNamespace(param_groups=[group])])
    scores = iter(losses)
    module = SimpleNamespace(take_train_scores=lambda: (next(scores), 0.5))
    batches = 0
    while not trainer.should_stop:
        callback.on_train_batch_start(trainer, module, None, batches)
        callback.on_train_batch_end(trainer, module, None, None, batches)
        batches += 1
    assert batches == steps
    assert callback.curve.exploded_at == group["lr"] == pytest.approx(np.geomspace(1e-4, 10, 20)[steps - 1])
    assert group["momentum"] == 0.85
    assert np.isfinite(callback.curve.losses).all()


def test_momentum_is_that_of_the_peak(command, monkeypatch):
    seen = []
    monkeypatch.setattr(LRRangeTest, "on_train_end", lambda self, trainer, module: seen.append(trainer.optimizers[0]))
    settings = ("schedule.cycle_momentum=true", "schedule.base_momentum=0.7")
    assert command("lr_find", "dataset=digits", *SHORT, *settings).code == 0
    assert [group["momentum"] for group in seen[0].param_groups] == pytest.approx([0.7, 0.7], abs=1e-3)
