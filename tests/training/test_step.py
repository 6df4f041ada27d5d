"""A whole training step: the numbers of a plain loop, in any number of parts, compiled or not."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from harness import RUN, STEPS, only_run, same_weights, stop_at

from fastconv.models import build_model
from fastconv.training.callbacks import FiniteLoss, Recorder
from fastconv.training.callbacks import recorder as recording
from fastconv.training.step import train_step
from fastconv.training.train_scores import PendingScores

MEAN, STD = 0.3, 0.35


def network():
    torch.manual_seed(0)
    return build_model("davidnet", channels=1, classes=10, width=4)


def batches(parts, count, n=8):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.randint(256, (parts, n, 8, 8, 1), generator=generator, dtype=torch.uint8)
        yield images, torch.randint(10, (parts, n), generator=generator)


def learn_with(model):
    def learn(images, labels):
        logits = model((images.permute(0, 3, 1, 2) / 255 - MEAN) / STD)
        loss = F.cross_entropy(logits, labels)
        correct = (logits.argmax(1) == labels).sum()
        return loss, torch.stack([loss.detach() * len(labels), correct, torch.full_like(correct, len(labels))])

    return learn


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_weights_and_sums_are_those_of_accumulation(parts):
    """Bit for bit, over steps with other learning rates, while the caller overwrites each batch after the call."""
    ours, plain = network(), network()
    optimizer, reference = sgd(ours), sgd(plain)
    sums, losses, correct = torch.zeros(3), [], 0
    for step, (images, labels) in enumerate(batches(parts, 5)):
        optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        reference.zero_grad()
        for part in range(parts):
            pixels = (images[part].permute(0, 3, 1, 2) / 255 - MEAN) / STD
            logits = plain(pixels)
            loss = F.cross_entropy(logits, labels[part])
            (loss / parts).backward()
            losses.append(loss.item())
            correct += int((logits.argmax(1) == labels[part]).sum())
        reference.step()
        found = train_step(images, labels, learn_with(ours), optimizer, sums)
        images.fill_(255)
        labels.fill_(0)
        assert found.item() == pytest.approx(sum(losses[-parts:]) / parts, rel=1e-6)
        assert not found.requires_grad
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert sums.tolist() == pytest.approx([8 * sum(losses), correct, 8 * len(losses)], rel=1e-6)


def test_no_part_but_the_last_exchanges_gradients():
    """`accumulate` is around all others, forward and backward, and `forward` around each forward pass alone."""
    model, seen, inside = network(), [], set()

    @contextlib.contextmanager
    def within(name):
        inside.add(name)
        yield
        inside.remove(name)

    def learn(images, labels):
        seen.append(("learn", *sorted(inside)))
        return learn_with(model)(images, labels)

    def backward(loss):
        seen.append(("backward", *sorted(inside)))
        loss.backward()

    (batch,) = batches(3, 1)
    contexts = (lambda: within("forward"), backward, lambda: within("accumulate"))
    train_step(*batch, learn, sgd(model), torch.zeros(3), *contexts)
    early = [("learn", "accumulate", "forward"), ("backward", "accumulate")]
    assert seen == [*early, *early, ("learn", "forward"), ("backward",)]


def test_another_learning_rate_compiles_nothing_again():
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    model = network()
    optimizer, learn = sgd(model), torch.compile(learn_with(model), dynamic=False, backend=backend)
    for step, (images, labels) in enumerate(batches(2, 4)):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        train_step(images, labels, learn, optimizer, torch.zeros(3))
        if step == 0:
            first = len(compiled)
    assert len(compiled) == first > 0


HOOKS = '''
import lightning as L
import torch


class Clip(L.Callback):
    """Clips gradients to nearly nothing, and notes the hooks around them and the first weights."""

    seen, first = [], {}

    def on_before_zero_grad(self, trainer, module, optimizer):
        if not self.seen:
            self.first.update({name: value.detach().clone() for name, value in module.named_parameters()})
        self.seen.append("zero")

    def on_after_backward(self, trainer, module):
        self.seen.append("backward")

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen.append("update")
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1e-9)
'''


def test_a_callback_sees_and_clips_gradients(command, tmp_path, monkeypatch):
    (tmp_path / "clipping.py").write_text(HOOKS)
    monkeypatch.syspath_prepend(tmp_path)
    given = (*RUN, "validate.on=none", "optimizer.weight_decay=0", "schedule.max_epochs=0.2")
    ended = command("train", *given, "callbacks=[{_target_: clipping.Clip}]")
    assert ended.code == 0, ended.err
    import clipping

    assert clipping.Clip.seen == ["zero", "backward", "backward", "update"] * round(0.2 * 1438 / 64)
    trained = torch.load(only_run(tmp_path) / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in clipping.Clip.first.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-7, msg=name)


def test_a_checkpoint_that_counts_microbatches_goes_on(command, tmp_path, monkeypatch):
    """As earlier versions wrote it: Lightning optimized, and a microbatch was a batch to it."""
    assert command("train", *RUN, "outputs=whole").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 9)
        assert command("train", *RUN, "outputs=stopped").code == 143
    run = only_run(tmp_path / "stopped")
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    loops = checkpoint["loops"]["fit_loop"]
    steps = loops["epoch_loop.manual_optimization.optim_step_progress"]
    loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] = steps
    loops["epoch_loop.manual_optimization.optim_step_progress"] = {
        span: {"ready": 0, "completed": 0} for span in ("total", "current")
    }
    for span in ("total", "current"):
        assert steps[span]["completed"] == 9
        loops["epoch_loop.batch_progress"][span] = {"ready": 18, "completed": 17, "started": 18, "processed": 18}
    torch.save(checkpoint, run / "last.ckpt")
    ended = command("train", f"resume={run}")
    assert ended.code == 0, ended.err
    assert same_weights(run, only_run(tmp_path / "whole"))
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == STEPS
    curves = [(only_run(tmp_path / name) / "metrics.csv").read_text().count("\n") for name in ("whole", "stopped")]
    assert curves[0] == curves[1], "validations after the same steps"


# -- what is read from a GPU, which there is none of here


class Gpu:
    """A device whose steps take `seconds`, which the host starts without waiting."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.free_at, self.seconds, self.waits = 0.0, 0.0, seconds, 0
        monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: self.now))

    def step(self):
        self.now += 0.001
        self.free_at = max(self.free_at, self.now) + self.seconds

    def copy(self, sums):
        done = self.free_at

        def synchronize():
            self.waits += self.now < done
            self.now = max(self.now, done)

        return PendingScores(sums, SimpleNamespace(query=lambda: self.now >= done, synchronize=synchronize))


def train(gpu, steps, loss_of=lambda step: 1.0, limit_ahead=8):
    """Rows by step; the host waits for steps that are `limit_ahead` back, as the budget makes it."""
    rows, total = {}, torch.zeros(3)
    logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.update({step: metrics}))
    group = {"lr": 0.1, "momentum": 0.9}
    trainer = SimpleNamespace(
        loggers=[logger], should_stop=False, world_size=1, optimizers=[SimpleNamespace(param_groups=[group])]
    )
    budget = SimpleNamespace(
        steps=0, seconds=None, progress=0.5, elapsed=lambda: gpu.now, clock=SimpleNamespace(counted=lambda _: gpu.now)
    )

    def copy_train_scores():
        found = gpu.copy(total.clone())
        total.zero_()
        return found

    module = SimpleNamespace(device=torch.device("cuda"), copy_train_scores=copy_train_scores)
    recorder = Recorder(budget, epoch_images=1000, batch_size=10, every=1)
    guard = FiniteLoss(budget, recorder)
    recorder.on_train_start(trainer, module)
    ends = []
    for step in range(1, steps + 1):
        gpu.step()
        total += torch.tensor([10 * loss_of(step), 5, 10])
        ends.append(gpu.free_at)
        if len(ends) > limit_ahead:
            gpu.now = max(gpu.now, ends[-limit_ahead - 1])
        budget.steps, trainer.should_stop = step, step == steps
        recorder.on_train_batch_end(trainer, module, None, None, step)
        guard.on_train_batch_end(trainer, module, None, None, step)
    return rows, recorder


def test_a_gpu_is_read_four_times_a_second_and_never_waited_for(monkeypatch):
    gpu = Gpu(monkeypatch, seconds=0.01)
    rows, recorder = train(gpu, steps=200)
    assert gpu.waits == 1, "for the last step alone"
    assert sorted(rows)[0] == 1
    assert sorted(rows)[-1] == 200
    assert 7 <= len(rows) <= 4 * 2 + 2
    assert {row["train/loss"] for row in rows.values()} == {1.0}
    assert {row["train/accuracy"] for row in rows.values()} == {0.5}
    assert [row["train/epoch"] for row in rows.values()] == [step / 100 for step in rows], "each with its own step"
    assert [step for step, _ in recorder.state_dict()["rows"]] == sorted(rows)


def test_a_checkpoint_has_the_values_that_were_on_their_way(monkeypatch):
    gpu = Gpu(monkeypatch, seconds=0.01)
    recorder = Recorder(SimpleNamespace(steps=1), epoch_images=1000, batch_size=10, every=1)
    gpu.step()
    recorder._pending.append((1, gpu.copy(torch.tensor([20.0, 5.0, 10.0])), {"schedule/lr": 0.1}))
    assert recorder.state_dict()["rows"] == [[1, {"train/loss": 2.0, "train/accuracy": 0.5, "schedule/lr": 0.1}]]


def test_a_gpus_loss_that_is_no_number_ends_the_run(monkeypatch):
    gpu = Gpu(monkeypatch, seconds=0.01)
    with pytest.raises(Exception, match="the loss is not finite after step"):
        train(gpu, steps=200, loss_of=lambda step: float("nan") if step == 60 else 1.0)
    assert gpu.waits == 0
    assert gpu.now < 0.01 * 60 + 0.25 + 0.1
