"""When the head of a frozen network is trained on kept features, and when on new images alone."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fastconv.data.features import KeptFeatures, is_reusing
from fastconv.training.callbacks import reuse_features
from fastconv.training.callbacks.reuse_features import ReuseFeatures
from fastconv.training.epoch_loop import use_epoch_loop
from fastconv.training.module import ImageClassifier


class Budget:
    """A run of 100 steps."""

    def __init__(self):
        self.step, self.work, self.worked = 0, 1.0, 0.0

    def begin_step(self, trainer):
        self.step = trainer.global_step

    @property
    def progress(self):
        return (self.step + 1) / 100


def run(kept, epochs, steps=100):
    """Take steps; returns the module, and how much work they were."""
    budget = Budget()
    recorder = SimpleNamespace()
    callback = ReuseFeatures(budget, kept, 0.75, recorder)
    module, trainer = SimpleNamespace(kept=kept), SimpleNamespace(global_step=0)
    for step in range(steps):
        trainer.global_step, recorder.epochs = step, epochs * step / 100
        callback.on_train_batch_start(trainer, module, None, step)
        if module.kept is not None and kept.new is None:
            kept.put(step, torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64))
        budget.worked += budget.work
        trainer.global_step = step + 1
        callback.on_train_batch_end(trainer, module, None, None, step)
    return module, callback, budget.worked


def test_few_new_images_are_used_again():
    kept = KeptFeatures(0)
    module, callback, worked = run(kept, epochs=1.9)
    assert is_reusing(module)
    assert kept.new == 74 + 2  # step 74 ends at 75 %, and the batch after it has been read
    assert worked == kept.new  # steps on features are hardly any work
    other = KeptFeatures(0)
    ReuseFeatures(Budget(), other, 0.75, SimpleNamespace()).load_state_dict(callback.state_dict())
    assert other.new == kept.new


@pytest.mark.parametrize(("epochs", "most_bytes"), [(4, 2**30), (1, 1000)], ids=["many images", "little memory"])
def test_many_images_are_not(monkeypatch, epochs, most_bytes):
    monkeypatch.setattr(reuse_features, "MOST_BYTES", most_bytes)
    kept = KeptFeatures(0)
    module, _, worked = run(kept, epochs)
    assert module.kept is None
    assert (kept.new, kept.bytes, kept.get(0)) == (None, 0, None)
    assert not is_reusing(module)
    assert worked == 100


class Frozen(nn.Module):
    """A frozen network and its head; `seen` are the types of its maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.seen = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), []
        self.conv.requires_grad_(False)

    def features(self, images):
        maps = self.conv(images)
        self.seen.append(maps.dtype)
        return maps.mean((2, 3))

    def classify(self, features):
        return self.head(features)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_features_are_computed_in_the_precision_of_the_run(precision, dtype):
    """Also where the loop calls the training step without Lightning's context."""
    network, images = Frozen(), torch.zeros(3, 2, 4, 9, 11, 1, dtype=torch.uint8)
    batches = [(each, torch.zeros(2, 4, dtype=torch.int64)) for each in images]
    module = ImageClassifier("davidnet", {"width": 8}, (9, 11, 1), ("a", "b", "c"), (0.5,), (0.3,),
                             optimizer=lambda model: torch.optim.SGD(model.head.parameters(), 0.1))  # fmt: skip
    module.model, module.kept = network, KeptFeatures(0)
    trainer = L.Trainer(accelerator="cpu", precision=precision, max_epochs=1, logger=False, enable_progress_bar=False,
                        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0)  # fmt: skip
    use_epoch_loop(trainer)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert network.seen == [dtype] * 6
