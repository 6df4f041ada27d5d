"""The loop over batches: what callbacks see, log and save is what plain Lightning has them see, log and save."""

import os
from unittest import mock

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from fastconv.training import epoch_loop
from fastconv.training.epoch_loop import EpochLoop, use_epoch_loop
from fastconv.training.step import WholeStep
from fastconv.training.trainer import make_strategy


@pytest.fixture(params=["auto", "ddp"])
def strategy(request):
    """Makes the strategy of one device, or of a single rank whose gradients are exchanged all the same."""
    with mock.patch.dict(os.environ):
        yield lambda: make_strategy(request.param, 1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


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
        loops = trainer.fit_loop.state_dict()
        self.note(trainer, "end", batch_idx, batch[1].tolist(), outputs["loss"].item(), loops)


class Updates(Ends):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.note(trainer, "update", *(param.grad.sum().item() for param in pl_module.parameters()))


class Backwards(Starts):
    def on_before_backward(self, trainer, pl_module, loss):
        self.note(trainer, "loss", loss.item())

    def on_after_backward(self, trainer, pl_module):
        self.note(trainer, "gradient", *(param.grad.sum().item() for param in pl_module.parameters()))


class Late(Updates, Backwards):
    """It has the hooks within a step, and is added during training."""


class Adds(Starts):
    """Adds it at the start of the second step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            trainer.callbacks.append(Late(self.seen))


class Idle(L.Callback):
    """It has no hook at all, and one that is no function."""

    on_train_batch_end = None


class Logs(L.Callback):
    """Logs through Lightning, in each hook of a step from the second on, at steps and for the epoch."""

    def give(self, trainer, name):
        if trainer.fit_loop.epoch_loop.batch_idx:
            self.log(name, float(trainer.global_step), on_step=True, on_epoch=True)
            self.log(f"{name} shown", 2.0 * trainer.global_step, prog_bar=True, logger=False)
            self.log(f"{name} default", 3.0 * trainer.global_step)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.give(trainer, "start")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.give(trainer, "update")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.give(trainer, "end")
        if batch_idx > 2:
            pl_module.log("late", outputs["loss"], batch_size=batch_idx, on_epoch=True)


class Keeps(Logger):
    """A logger that keeps what it is given."""

    name = version = "keeps"

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def log_metrics(self, metrics, step=None):
        self.seen.append(("log", step, dict(metrics)))

    def log_hyperparams(self, *_, **__):
        pass

    def save(self):
        self.seen.append(("save",))


class Validates(Starts):
    def on_validation_start(self, trainer, pl_module):
        self.note(trainer, "validation", trainer.fit_loop.epoch_loop.total_batch_idx)

    def on_validation_end(self, trainer, pl_module):
        self.note(trainer, "validated", trainer.callback_metrics["validate/loss"].item(), trainer.fit_loop.state_dict())


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

    def validation_step(self, batch, batch_idx):
        self.log("validate/loss", self.learn(batch[0][0], batch[1][0])[0])

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
                self.manual_backward(loss / len(images))
                sums += found
                losses.append(loss.detach() / len(images))
            optimizer.step()
            return torch.stack(losses).sum()

        return step


class Watched:
    """Hooks of the module itself."""

    def on_after_backward(self):
        self.seen.append(("module", "gradient", self.layer.weight.grad.sum().item()))

    def backward(self, loss, *given, **named):
        self.seen.append(("module", "backward", loss.item()))
        super().backward(loss, *given, **named)

    def on_train_batch_start(self, batch, batch_idx):
        self.seen.append(("module", "start", batch_idx))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen.append(("module", "end", batch_idx))

    def on_before_optimizer_step(self, optimizer):
        self.seen.append(("module", "update", optimizer is self.trainer.optimizers[0]))


class Skips:
    """Ends the epoch before its third batch."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 2 else None


class Moves:
    """Changes each batch on its way to the device."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + dataloader_idx + 1, batch[1]


def batches(count=8):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, 4, 3, generator=generator), (torch.arange(8) + at).view(2, 4) % 2) for at in range(count)]


class Endless(IterableDataset):
    """Batches without end, the first of which is number `first`."""

    def __init__(self, first=0):
        self.first = first

    def __iter__(self):
        at, all_of_them = self.first, batches()
        while True:
            yield all_of_them[at % 8]
            at += 1


def fit(base, seen, callbacks, loader=None, parents=(), path=None, **settings):
    """Train with `Line` in our loop or with `Plain` in Lightning's; return Trainer and module."""
    module = type("Module", (*parents, base), {"seen": seen})()
    quiet = {"enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
    settings = {"accelerator": "cpu", "max_epochs": 1, "logger": False, **quiet, **settings}
    trainer = L.Trainer(callbacks=callbacks, **settings)
    if base is Line:
        use_epoch_loop(trainer)
        assert type(trainer.fit_loop.epoch_loop) is EpochLoop
    loader = DataLoader(batches(3), batch_size=None) if loader is None else DataLoader(loader, batch_size=None)
    trainer.fit(module, loader, DataLoader(batches(1), batch_size=None), ckpt_path=path)
    return trainer, module


def both(train):
    """What `train(base)` returns of our loop and of Lightning's, which must be the same; return it once."""
    ours, expected = train(Line), train(Plain)
    assert ours == expected
    return ours


def outcome(trainer, module):
    """Weights, sums, numbers of steps and logged values at the end."""
    weights = [value.tolist() for value in (*module.layer.parameters(), module.sums)]
    metrics = [
        {name: float(value) for name, value in found.items()}
        for found in (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics)
    ]
    return weights, trainer.global_step, metrics, trainer.fit_loop.state_dict()


@pytest.mark.parametrize(("parents", "usual"), [((), True), ((Watched,), False), ((Skips,), False), ((Moves,), False)])
def test_hooks_are_called_as_lightning_calls_them(parents, usual, strategy):
    """In the same order, with the same arguments, numbers of steps and gradients."""

    def train(base):
        seen = []
        function = LambdaCallback(on_train_batch_end=lambda trainer, *_: seen.append(("lambda", trainer.global_step)))
        callbacks = [kind(seen) for kind in (Starts, Updates, Ends, Backwards)]
        callbacks = [callbacks[0], Idle(), function, *callbacks[1:]]
        trainer, module = fit(base, seen, callbacks, parents=parents, strategy=strategy())
        if base is Line:
            assert trainer.fit_loop.epoch_loop._is_usual == usual
            assert trainer.fit_loop.epoch_loop._is_plain
        return seen, outcome(trainer, module)

    seen, (_, steps, *_) = both(train)
    assert steps == 3 - (Skips in parents)
    assert len([what for what in seen if what[0] == "module"]) == 21 * (Watched in parents)
    assert len(seen) >= 10 * steps


def test_a_lower_precision_is_entered_as_lightning_enters_it(monkeypatch, strategy):
    """Also in a step that Lightning calls within its own context, as the first one after a checkpoint."""

    def train(base, precision="bf16-mixed"):
        seen = []
        return outcome(*fit(base, seen, [Updates(seen)], batches(), precision=precision, strategy=strategy())), seen

    found = both(train)
    assert found != train(Line, "32-true")
    monkeypatch.setattr(EpochLoop, "advance", _TrainingEpochLoop.advance)
    assert found == train(Line)


def test_a_callback_may_come_during_training(strategy):
    """From then on its hooks are called."""

    def train(base):
        seen = []
        return outcome(*fit(base, seen, [Adds(seen)], batches(), strategy=strategy())), seen

    _, seen = both(train)
    assert [what[2] for what in seen if what[0] == "Late"] == [*["loss", "gradient"] * 2, "update", "end"] * 7


@pytest.mark.parametrize("every", [1, 2, 50])
def test_values_are_logged_as_lightning_logs_them(every):
    """From any hook, some from the first step on and some later, with validations between."""

    def train(base):
        seen = []
        settings = {"logger": [Keeps(seen)], "log_every_n_steps": every, "val_check_interval": 3}
        trainer, module = fit(base, seen, [Logs(), Validates(seen)], batches(), **settings)
        return seen, outcome(trainer, module)

    seen, _ = both(train)
    logged = {name for what in seen if what[0] == "log" for name in what[2]}
    assert {"start_epoch", "update_epoch", "end_epoch", "late_epoch", "validate/loss"} <= logged
    assert ("start_step" in logged) == (every < 50)


@pytest.mark.parametrize("stop_at", [7, 8])
def test_validations_come_when_lightning_validates(stop_at):
    """Every third batch of an endless stream, and after a stop, but not where their limit is 0."""

    def train(base):
        seen = []

        def end(trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx == stop_at
            trainer.limit_val_batches = 0 if batch_idx == 2 else 1.0

        settings = {"val_check_interval": 3, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
        callbacks = [LambdaCallback(on_train_batch_end=end), Validates(seen), Ends(seen)]
        return outcome(*fit(base, seen, callbacks, Endless(), **settings)), seen

    _, seen = both(train)
    assert [what[3] for what in seen if what[2] == "validation"] == [5, stop_at]


class BoomError(Exception):
    pass


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"])
def test_an_error_in_a_hook_leaves_the_trainer_as_lightning_leaves_it(hook, strategy):
    def train(base):
        seen = []

        def fail(trainer, module, *_):
            if trainer.fit_loop.epoch_loop.batch_idx == 1:
                raise BoomError

        raised = LambdaCallback(
            on_exception=lambda trainer, module, error: seen.append((type(error), outcome(trainer, module)))
        )
        with pytest.raises(BoomError):
            fit(base, seen, [LambdaCallback(**{hook: fail}), raised, Ends(seen)], strategy=strategy())
        return seen

    assert both(train)[-1][0] is BoomError


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end"])
def test_a_run_goes_on_from_a_checkpoint(hook, tmp_path):
    """Of the middle of an epoch: each loop from its own, and from that of the other."""

    def settings(seen):
        steps = LambdaCallback(
            on_train_batch_end=lambda trainer, *_: setattr(trainer, "should_stop", trainer.global_step == 8)
        )
        return [steps, Starts(seen), Validates(seen), Updates(seen)]

    often = {"val_check_interval": 3, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}

    def save(base):
        def write(trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / f"{base.__name__}.ckpt")

        seen = []
        return outcome(*fit(base, seen, [*settings(seen), LambdaCallback(**{hook: write})], Endless(), **often)), seen

    whole, _ = both(save)

    def go_on(base, of):
        seen = []
        path = tmp_path / f"{of.__name__}.ckpt"
        return outcome(*fit(base, seen, settings(seen), Endless(3), path=path, **often)), seen

    ours = go_on(Line, Line)
    assert ours == go_on(Plain, Plain) == go_on(Line, Plain)
    assert ours[0][0][:2] == whole[0][:2], "the weights of a run that was not stopped"


def test_a_batch_that_is_elsewhere_is_moved():
    moved = []

    class Elsewhere(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.fit_loop.epoch_loop._device = torch.device("meta")
            move = trainer.strategy.batch_to_device
            trainer.strategy.batch_to_device = lambda batch, **given: moved.append(given) or move(batch, **given)

    def train(base):
        return outcome(*fit(base, [], [Elsewhere()] if base is Line else []))

    both(train)
    assert moved[:1] == [{"dataloader_idx": 0}]


def test_another_version_of_lightning_has_its_own_loop(monkeypatch):
    monkeypatch.setattr(epoch_loop.L, "__version__", "2.7.0")
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    use_epoch_loop(trainer)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop


def test_an_optimizer_forgets_gradients_in_its_own_way():
    zeroed = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            zeroed.append(set_to_none)
            super().zero_grad(set_to_none)

    class Zeroes:
        def configure_optimizers(self):
            return Own(self.parameters(), lr=0.1)

    fit(Line, [], [], parents=(Zeroes,))
    assert zeroed == [True] * 3
