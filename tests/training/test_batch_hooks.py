"""Which hooks a step calls: those that plain Lightning would, but for those that do nothing."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn
from torch.utils.data import DataLoader

from fastconv.training.batch_hooks import leave_out_idle_hooks
from fastconv.training.step import WholeStep


class Starts(L.Callback):
    def __init__(self, seen):
        self.seen = seen

    def note(self, trainer, *what):
        self.seen.append((type(self).__name__, trainer.global_step, *what))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.note(trainer, "start", batch_idx, batch[1].tolist())


class Ends(Starts):
    on_train_batch_start = L.Callback.on_train_batch_start

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.note(trainer, "end", batch_idx, batch[1].tolist(), outputs["loss"].item())


class Updates(Ends):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.note(trainer, "update", *(param.grad.sum().item() for param in pl_module.parameters()))


class Late(Starts):
    """It is added after the Trainer was made."""


class Idle(L.Callback):
    """It has no hook at all."""


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.layer, self.sums, self.whole = nn.Linear(3, 2), torch.zeros(1), None

    def learn(self, images, labels):
        loss = nn.functional.cross_entropy(self.layer(images), labels)
        return loss, loss.detach()[None]

    def training_step(self, batch, batch_idx):
        self.whole = self.whole or self.step_of()
        return self.whole(*batch, self.learn, self.sums)

    def step_of(self):
        return WholeStep(self)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Plain(Line):
    """The same step by Lightning's own means."""

    def step_of(self):
        def step(images, labels, learn, sums):
            optimizer, losses = self.optimizers(), []
            optimizer.zero_grad()
            for part in zip(images, labels, strict=True):
                loss, found = learn(*part)
                (loss / len(images)).backward()
                sums += found
                losses.append(loss.detach() / len(images))
            optimizer.step()
            return torch.stack(losses).sum()

        return step


class Watched:
    """Hooks of the module itself."""

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append(("module", "start", batch_idx))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append(("module", "end", batch_idx))

    def on_before_optimizer_step(self, optimizer):
        self.seen.append(("module", "update", optimizer is self.trainer.optimizers[0]))


def train(base, watched, idle):
    seen = []
    module = type("Module", (Watched, base) if watched else (base,), {"seen": seen})()
    function = LambdaCallback(on_train_batch_end=lambda trainer, *_: seen.append(("lambda", trainer.global_step)))
    callbacks = [Starts(seen), Idle(), function, Updates(seen), Ends(seen)]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, enable_progress_bar=False, **quiet)
    if idle:
        leave_out_idle_hooks(trainer)
    trainer.callbacks.append(Late(seen))
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(2, 4, 3, generator=generator), torch.arange(8).view(2, 4) % 2) for _ in range(3)]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    for owner in (module, *trainer.callbacks):  # after it, all hooks are there again
        assert callable(owner.on_train_batch_start)
        assert callable(owner.on_train_batch_end)
    return seen, trainer.global_step, [*module.layer.parameters(), module.sums]


@pytest.mark.parametrize("watched", [False, True], ids=["", "of the module too"])
def test_hooks_are_called_as_lightning_calls_them(watched):
    """In the same order, with the same arguments, numbers of steps and gradients."""
    seen, steps, weights = train(Line, watched, idle=True)
    expected, expected_steps, expected_weights = train(Plain, watched, idle=False)
    assert seen == expected
    assert len(seen) == 3 * (6 + 3 * watched)
    assert steps == expected_steps == 3
    for found, value in zip(weights, expected_weights, strict=True):
        assert torch.equal(found, value)


def test_an_optimizer_forgets_gradients_in_its_own_way():
    zeroed = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            zeroed.append(set_to_none)
            super().zero_grad(set_to_none)

    class Module(Line):
        def configure_optimizers(self):
            return Own(self.parameters(), lr=0.1)

    train(Module, False, idle=True)
    assert zeroed == [True] * 3
