"""Averages of the weights: against loops over the weights that a training had, and in runs that are stopped."""

import itertools
import signal

import lightning as L
import numpy as np
import pytest
import torch
from conftest import noise
from test_model import classifier
from test_resume import RUN, stop_at
from test_train import only_run, same_weights, weights

from fastconv.callbacks import AverageWeights, ScheduleLR, TimeBudget
from fastconv.optim.averaging import Average
from fastconv.results import Results
from fastconv.schedule import Constant

STEPS = 11


class Weights(L.Callback):
    """Notes what the network is after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, np.ndarray]] = []

    def on_train_start(self, trainer, pl_module):
        self.note(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.note(pl_module)

    def note(self, pl_module):
        self.seen.append({name: value.numpy().copy() for name, value in pl_module.model.state_dict().items()})


def train(average: Average) -> tuple[L.LightningModule, Weights, Weights]:
    """A short training, with the weights before and after the average had its turn."""
    torch.manual_seed(0)
    module = classifier(shape=(9, 11, 3))
    data = noise(57, 3)
    batch = torch.from_numpy(data.images[:32]), torch.from_numpy(data.labels[:32])
    module.train_dataloader = lambda: itertools.repeat(batch)
    budget, before, after = TimeBudget(bound_steps=STEPS), Weights(), Weights()
    callbacks = [budget, ScheduleLR(Constant(), max_lr=0.1), before, AverageWeights(average, budget), after]
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, logger=False, enable_progress_bar=False,
                        enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module)
    return module, before, after


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_an_ema_is_that_of_the_weights(decay):
    module, before, after = train(Average("ema", every=2, decay=decay))
    assert all(
        np.array_equal(one[key], other[key]) for one, other in zip(before.seen, after.seen, strict=True) for key in one
    )
    for name, value in module.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        expected = before.seen[0][name].astype(np.float64)
        for step in range(2, STEPS + 1, 2):
            kept = min(decay**2, (1 + step / 2) / (10 + step / 2))  # the first updates remember less
            expected = kept * expected + (1 - kept) * before.seen[step][name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
        assert not np.allclose(value, before.seen[-1][name], rtol=1e-3)


def test_lookahead_returns_to_its_slow_weights():
    module, before, after = train(Average("lookahead", every=3, decay=0.9))
    name = "layer1.0.0.weight"
    slow = before.seen[0][name].astype(np.float64)
    for step in range(1, STEPS + 1):
        if step % 3 == 0:
            kept = 0.9**3 * (step / STEPS) ** 3
            slow = kept * slow + (1 - kept) * before.seen[step][name]
            np.testing.assert_allclose(after.seen[step][name], slow, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(after.seen[step][name], before.seen[step][name])
    np.testing.assert_allclose(module.model.state_dict()[name], slow, rtol=1e-4, atol=1e-6)


def test_before_its_first_update_the_weights_stay():
    module, before, _ = train(Average("ema", every=100))
    for name, value in module.model.state_dict().items():
        np.testing.assert_array_equal(value, before.seen[-1][name])


@pytest.mark.parametrize("kind", ["ema", "lookahead"])
def test_an_average_goes_on_where_it_was(kind, command, tmp_path, monkeypatch):
    """Stopped within a validation, in which an EMA stands in for the weights, and after some more steps."""
    settings = (*RUN, f"average={kind}", "average.every=2", "average.decay=0.8")
    assert command("train", *settings, "outputs=whole").code == 0
    for method, call in (("validation_step", 1), ("training_step", 9)):
        with monkeypatch.context() as patch:
            stop_at(patch, method, call, signal.SIGTERM)
            assert command("train", *settings, "outputs=parts", "resume=auto").code == 143
    assert command("train", *settings, "outputs=parts", "resume=auto").code == 0
    whole, parts = only_run(tmp_path / "whole"), only_run(tmp_path / "parts")
    assert same_weights(whole, parts)
    assert Results.read(whole).accuracy == Results.read(parts).accuracy
    assert command("train", *RUN, "outputs=plain").code == 0
    plain = weights(only_run(tmp_path / "plain"))
    assert not torch.equal(weights(whole)["model.linear.weight"], plain["model.linear.weight"])
