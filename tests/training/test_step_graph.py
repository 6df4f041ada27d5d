"""The training step as a graph, on a stand-in for CUDA's that is as strict: it repeats recorded operators."""

import dataclasses
import functools
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from harness import SMALL, only_run, same_weights, stop_at
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastconv.budget.hardware import Device
from fastconv.config.overrides import compose
from fastconv.models import build_model
from fastconv.models.configs import CustomNetwork
from fastconv.optim import OPTIMIZERS, AdamW, Muon, optimizer_of
from fastconv.optim.schedules import OneCycle
from fastconv.runs.results import Results
from fastconv.system.errors import InputError, RunWarning
from fastconv.training import step_graph
from fastconv.training.callbacks import TuneConvolutions
from fastconv.training.graph_choice import choose_graph
from fastconv.training.step import train_step
from fastconv.training.step_graph import GraphedStep


class Tape(TorchDispatchMode):
    """Records the operators of a block with their tensors and numbers, below autograd and autocast.

    As in the capture of a CUDA graph, tensors from before have their values again at the end of the block, those made
    in it have none, and nothing may be read by the host.
    """

    def __init__(self):
        super().__init__()
        self.calls, self._before, self._made = [], {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made and storage._cdata not in self._before:
                self._before[storage._cdata] = storage, storage.clone()
        result = func(*args, **kwargs)
        for tensor in tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._before:
                self._made[storage._cdata] = storage
        self.calls.append((func, args, kwargs, result))
        return result

    def __exit__(self, *error):
        super().__exit__(*error)
        for storage, content in self._before.values():
            storage.copy_(content)
        for storage in self._made.values():
            storage.fill_(255)  # floats that are no numbers

    @torch.no_grad()
    def replay(self):
        with torch.autocast("cpu", enabled=False):
            for func, args, kwargs, result in self.calls:
                for new, old in zip(tensors(func(*args, **kwargs)), tensors(result), strict=True):
                    if new.untyped_storage()._cdata != old.untyped_storage()._cdata:
                        old.copy_(new)


def tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class TapeGraphs:
    """The graphs of a device that is none. `fails` names the method that does, `at` the capture in which it does."""

    def __init__(self, fails=None, at=1):
        self.fails, self.at, self.captures, self.replays, self.sent = fails, at, 0, 0, []

    def warm_up(self, work, times):
        for _ in range(times):
            work()
        self._fail("warm_up")

    def capture(self, work):
        self.captures += 1
        with Tape() as tape:
            result = work()
        self._fail("capture")

        def replay():
            self.replays += 1
            tape.replay()

        return replay, result

    def send(self, values, target):
        self.sent.append(values)
        target.copy_(torch.tensor(values))

    def _fail(self, method):
        if self.fails == method and self.captures >= self.at - (method == "warm_up"):
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


class Sum:
    """Counts as Lightning's progress does."""

    def __init__(self):
        self.ready = self.completed = 0

    def increment_ready(self):
        self.ready += 1

    def increment_completed(self):
        self.completed += 1


class Setting:
    """A small network with its optimizer, its step and all that the step needs of a Trainer."""

    def __init__(self, monkeypatch, optimizer="sgd", graphs=None, dropout=0.0, dtype=None, **settings):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(build_model("davidnet", 1, 10, width=4), torch.nn.Dropout(dropout))
        self.optimizer = OPTIMIZERS[optimizer](**settings).build(self.model, 16)
        self.sums, self.counted, self.called = torch.zeros(3), Sum(), 0
        self.context = (lambda: torch.autocast("cpu", dtype)) if dtype else nullcontext
        loops = SimpleNamespace(manual_optimization=SimpleNamespace(optim_step_progress=self.counted))
        trainer = SimpleNamespace(
            optimizers=[self.optimizer],
            precision_plugin=SimpleNamespace(train_step_context=self.context),
            fit_loop=SimpleNamespace(epoch_loop=loops),
        )
        monkeypatch.setattr(step_graph, "WholeStep", lambda module: self.call)
        self.graphs = graphs or TapeGraphs()
        self.module = SimpleNamespace(
            trainer=trainer,
            device=torch.device("cpu"),
            parameters=self.model.parameters,
            buffers=lambda: [*self.model.buffers(), self.sums],
            side_share=1.0,
        )
        self.graphed = GraphedStep(self.module, graphs=self.graphs)

    def learn(self, images, labels):
        pixels = images.permute(0, 3, 1, 2) / 255 - 0.3
        if self.module.side_share < 1:
            pixels = F.interpolate(pixels, scale_factor=self.module.side_share)
        logits = self.model(pixels)
        loss = F.cross_entropy(logits, labels)
        correct = (logits.argmax(1) == labels).sum()
        return loss, torch.stack([loss.detach() * len(labels), correct, torch.full_like(correct, len(labels))])

    def call(self, images, labels, learn=None, sums=None):
        """A step without a graph, its numbers given as tensors, so that they are rounded alike."""
        self.called += 1
        groups = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        for group in groups:
            group["lr"] = torch.tensor(group["lr"])
            if group.get("muon") is not None:
                group["momentum"] = torch.tensor(group["momentum"])
        found = train_step(images, labels, self.learn, self.optimizer, self.sums, self.context)
        for group, own in zip(groups, before, strict=True):
            group.update(own)
        torch.clear_autocast_cache()  # as Lightning does after each step
        return found

    def step(self, images, labels):
        """A step by the graph, within autocast, as Lightning calls it."""
        with self.context():
            return self.graphed(images, labels, self.learn, self.sums)

    def everything(self):
        """All values, by name."""
        found = {name: value.clone() for name, value in self.model.state_dict().items()}
        for at, state in enumerate(self.optimizer.state.values()):
            found |= {f"{at} {name}": value.clone() for name, value in state.items()}
        return found | {"sums": self.sums.clone()}


def batches(parts, count, n=8, side=8):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.randint(256, (parts, n, side, side, 1), generator=generator, dtype=torch.uint8)
        yield images, torch.randint(10, (parts, n), generator=generator)


def equal(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_graph_does_what_calls_do(optimizer, parts, monkeypatch):
    """Bit for bit, with other learning rates at each step, and while the caller overwrites each batch."""
    graphed, plain, given = Setting(monkeypatch, optimizer), Setting(monkeypatch, optimizer), [*batches(parts, 5)]
    for step, (images, labels) in enumerate(given):
        for setting in (graphed, plain):
            for group in setting.optimizer.param_groups:
                group["lr"] = group["max_lr"] / (step + 1)
        expected = plain.call(images.clone(), labels.clone())
        found = graphed.step(images, labels)
        images.fill_(255)
        labels.fill_(0)
        assert found.item() == expected.item()
        assert not found.requires_grad
        assert equal(graphed.everything(), plain.everything()), step
    assert all((images == 255).all() and (labels == 0).all() for images, labels in given), "they are the caller's"
    assert (graphed.graphs.captures, graphed.graphs.replays, graphed.called) == (1, 5, 0)
    assert (graphed.counted.ready, graphed.counted.completed) == (5, 5)
    assert all(isinstance(group["lr"], float) for group in graphed.optimizer.param_groups)
    assert not any(group.get("capturable") for group in graphed.optimizer.param_groups)


def test_a_graph_is_the_step_that_lightning_would_call(monkeypatch):
    """With numbers as they are, too, up to the rounding of learning rates to 32 bits."""
    graphed, plain = Setting(monkeypatch), Setting(monkeypatch)
    for images, labels in batches(2, 5):
        train_step(images, labels, plain.learn, plain.optimizer, plain.sums)
        graphed.step(images, labels)
    for name, value in plain.everything().items():
        torch.testing.assert_close(graphed.everything()[name], value, rtol=1e-4, atol=1e-6)


def test_numbers_are_sent_when_they_change(monkeypatch):
    setting = Setting(monkeypatch)
    for step, (images, labels) in enumerate(batches(1, 6)):
        for group in setting.optimizer.param_groups:
            group["lr"] = 0.1 * (step // 3)
        setting.step(images, labels)
    assert [values[0][0] for values in setting.graphs.sent] == [0, 0.1]


def test_the_momentum_of_muon_may_change(monkeypatch):
    graphed, plain = Setting(monkeypatch, "muon"), Setting(monkeypatch, "muon")
    for step, (images, labels) in enumerate(batches(1, 4)):
        for setting in (graphed, plain):
            for group in setting.optimizer.param_groups:
                group["momentum"] = 0.5 + 0.1 * step
        plain.call(images, labels)
        graphed.step(images, labels)
    assert equal(graphed.everything(), plain.everything())
    assert graphed.graphs.captures == 1


@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_where_another_number_changes_steps_are_called(name, monkeypatch):
    graphed, plain = Setting(monkeypatch), Setting(monkeypatch)

    def train():
        for step, (images, labels) in enumerate(batches(1, 5)):
            for setting in (graphed, plain):
                setting.optimizer.param_groups[0][name] = 0.5 if step < 2 else 0.6
            plain.call(images, labels)
            graphed.step(images, labels)

    with pytest.warns(RunWarning, match="goes on without a CUDA graph") as warned:
        train()
    assert len(warned) == 1
    assert (graphed.graphs.replays, graphed.called) == (2, 3)
    assert equal(graphed.everything(), plain.everything())


@pytest.mark.parametrize("change", ["frozen", "smaller images", "other batches"])
def test_what_a_graph_was_not_captured_for_gets_another_one(change, monkeypatch):
    graphed, plain = Setting(monkeypatch), Setting(monkeypatch)
    given = [*batches(2, 3, side=12), *batches(3 if change == "other batches" else 2, 3, side=12)]
    for step, (images, labels) in enumerate(given):
        for setting in (graphed, plain):
            if change == "frozen" and step == 3:
                for param in setting.optimizer.param_groups[1]["params"]:
                    param.requires_grad_(False)
                    param.grad = None
            if change == "smaller images":
                setting.module.side_share = 0.75 if step < 3 else 1.0
        assert graphed.step(images, labels).item() == plain.call(images, labels).item()
    assert equal(graphed.everything(), plain.everything())
    assert (graphed.graphs.captures, graphed.graphs.replays, graphed.graphed.captures) == (2, 6, 2)


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw"])
@pytest.mark.parametrize("fails", ["warm_up", "capture"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_capture_that_fails_harms_nothing(optimizer, fails, at, monkeypatch):
    """Neither the first one, nor one in the middle of a run."""
    graphed = Setting(monkeypatch, optimizer, TapeGraphs(fails, at), dropout=0.5)
    plain = Setting(monkeypatch, optimizer, dropout=0.5)

    def train():
        for step, (images, labels) in enumerate([*batches(1, 2), *batches(2, 2)]):
            torch.manual_seed(step)
            plain.call(images, labels)
            torch.manual_seed(step)
            graphed.step(images, labels)
            assert equal(graphed.everything(), plain.everything()), step

    with pytest.warns(RunWarning) as warned:
        train()
    (line,) = [str(warning.message) for warning in warned]
    assert line.startswith("training goes on without a CUDA graph of its step, and may be slower: RuntimeError: CUDA")
    assert "\n" not in line
    assert graphed.called == 4 - 2 * (at - 1)


def test_what_the_host_reads_cannot_be_captured(monkeypatch):
    graphed = Setting(monkeypatch)
    learn = graphed.learn

    def reading(images, labels):
        loss, sums = learn(images, labels)
        return (loss if loss.item() < 1e9 else 0 * loss), sums

    graphed.learn = reading
    first, second = batches(1, 2)
    with pytest.warns(RunWarning, match="not permitted when stream is capturing"):
        graphed.step(*first)
    graphed.step(*second)
    assert (graphed.called, graphed.graphed.captures) == (2, 0)


def test_each_step_casts_the_weights_of_now(monkeypatch):
    """Autocast keeps the weights that it cast, which would be those of before the capture."""
    graphed, plain = (Setting(monkeypatch, dtype=torch.bfloat16) for _ in range(2))
    for images, labels in batches(2, 4):
        with plain.context():
            expected = plain.call(images, labels)
        assert graphed.step(images, labels).item() == expected.item()
    assert equal(graphed.everything(), plain.everything())
    assert graphed.graphs.replays == 4


def test_a_capture_takes_no_random_numbers(monkeypatch):
    setting = Setting(monkeypatch, dropout=0.5)
    ((images, labels),) = batches(1, 1)
    torch.manual_seed(3)
    setting.step(images, labels)
    found = torch.rand(1)
    torch.manual_seed(3)
    setting.call(images, labels)
    assert torch.equal(torch.rand(1), found)


def test_a_capture_does_not_count_the_steps_before_it(monkeypatch):
    """In the middle of a run the GPU is some steps behind the host: these are training time."""
    setting, log = Setting(monkeypatch), []
    monkeypatch.setattr(step_graph, "synchronize", lambda device: log.append("the GPU is done"))

    @contextmanager
    def timed():
        log.append("capture")
        yield

    graphed = GraphedStep(setting.module, timed, setting.graphs)
    for images, labels in [*batches(1, 2), *batches(2, 1)]:
        graphed(images, labels, setting.learn, setting.sums)
    assert log == ["the GPU is done", "capture"] * 2


class Cuda:
    """As much of torch.cuda as a capture needs; `log` has what was asked of it, and on which stream."""

    def __init__(self, fails=False):
        self.fails, self.log, self.now = fails, [], "main"

    def Stream(self, device):  # noqa: N802
        return SimpleNamespace(name="side", wait_stream=lambda other: self.log.append("side waits"))

    def current_stream(self, device):
        name = self.now
        return SimpleNamespace(name=name, wait_stream=lambda other: self.log.append(f"{name} waits"))

    def set_stream(self, stream):
        self.now = stream.name

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream.name
        yield
        self.now = before

    def CUDAGraph(self):  # noqa: N802
        return SimpleNamespace(replay=lambda: self.log.append("replay"), pool=lambda: (0, 1))

    @contextmanager
    def graph(self, graph, stream, capture_error_mode):
        before, self.now = self.now, stream.name
        self.log.append(capture_error_mode)
        yield
        if self.fails:  # torch leaves its stream then
            raise RuntimeError("the capture failed")
        self.now = before


@pytest.mark.parametrize("fails", [False, True])
def test_cuda_warms_up_and_captures_on_a_stream_of_its_own(fails, monkeypatch):
    """Whose capture other threads cannot end; after a failure the computing stream is the one from before."""
    cuda = Cuda(fails)
    monkeypatch.setattr(torch, "cuda", cuda)
    graphs = step_graph.CudaGraphs(SimpleNamespace(index=0))
    graphs.warm_up(lambda: cuda.log.append(f"work on {cuda.now}"), 2)
    with pytest.raises(RuntimeError, match="the capture failed") if fails else nullcontext():
        replay, result = graphs.capture(lambda: cuda.log.append(f"work on {cuda.now}") or "loss")
        assert result == "loss"
        replay()
    expected = ["side waits", "work on side", "work on side", "main waits", "thread_local", "work on side"]
    assert cuda.log == expected + ["replay"] * (not fails)
    assert cuda.now == "main"


# -- whole runs


@pytest.fixture
def graphs(monkeypatch):
    """Runs take a graph, though a CPU trains: the stand-in's."""
    made = []

    def make(device):
        made.append(TapeGraphs())
        return made[-1]

    monkeypatch.setattr(step_graph, "CudaGraphs", make)
    monkeypatch.setattr("fastconv.training.plan.choose_graph", lambda *_: (True, ""))
    return made


# Learning rates that 32 bits hold, validations, and an average that writes to the weights between steps.
SHORT_RUN = ("dataset=digits", "model.width=4", "batch_size=64", "micro_batch_size=32", "trainer=cpu",
             "trainer.precision=fp32", "trainer.winograd=off", "budget.seconds=null", "schedule=step",
             "schedule.gamma=0.5", "optimizer.max_lr=0.25", "schedule.max_epochs=0.3", "validate.every=0.1",
             "average=lookahead", "checkpoint.every=null", "stream=online")  # fmt: skip
STEPS = round(0.3 * 1438 / 64)


def test_a_run_with_a_graph_is_the_run_without(command, tmp_path, graphs):
    """Also one that is stopped and goes on: a graph is captured when the checkpoint is loaded."""
    ended = command("train", *SHORT_RUN, "outputs=graph")
    assert ended.code == 0, ended.err
    assert "one CUDA graph" in ended.out
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "training_step", 3)
        assert command("train", *SHORT_RUN, "outputs=stopped").code == 143
    ended = command("train", f"resume={only_run(tmp_path / 'stopped')}")
    assert ended.code == 0, ended.err
    assert [(each.captures, each.replays) for each in graphs] == [(1, STEPS), (1, 3), (1, STEPS - 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastconv.training.plan.choose_graph", choose_graph)
        assert command("train", *SHORT_RUN, "outputs=plain").code == 0
    runs = [only_run(tmp_path / name) for name in ("graph", "stopped", "plain")]
    assert same_weights(*runs)
    graph, stopped, plain = (torch.load(run / "last.ckpt", weights_only=True) for run in runs)
    assert graph["global_step"] == stopped["global_step"] == plain["global_step"] == STEPS
    assert graph["optimizer_states"][0]["param_groups"] == plain["optimizer_states"][0]["param_groups"]
    results = [Results.read(run) for run in runs]
    assert [each.cuda_graphs for each in results] == [1, 1, None]
    assert len({each.accuracy for each in results}) == 1
    assert results[0].hparams == results[2].hparams


def test_a_run_whose_capture_fails_goes_on(command, tmp_path, graphs, monkeypatch):
    monkeypatch.setattr(step_graph, "CudaGraphs", lambda device: TapeGraphs("capture"))
    with pytest.warns(RunWarning, match="without a CUDA graph") as warned:
        assert command("train", *SHORT_RUN, "outputs=failed").code == 0
    assert len(warned) == 1
    results = Results.read(only_run(tmp_path / "failed"))
    assert (results.cuda_graphs, results.steps) == (0, STEPS)


# -- the choice

GPU = Device("cuda", "a GPU", "bf16", threads=1, keep_memory=False, compile=False)
CPU = dataclasses.replace(GPU, kind="cpu")


@functools.cache
def config():
    return OmegaConf.to_object(compose("train", ["dataset=digits"]))


def chosen(graph="auto", device=GPU, callbacks=(), trainer=(), **changes):
    trainer = dataclasses.replace(config().trainer, graph=graph, **dict(trainer))
    return choose_graph(dataclasses.replace(config(), trainer=trainer, **changes), device, callbacks)


class Clips(L.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        pass


class Watches(L.Callback):
    def on_train_batch_end(self, *_):
        pass


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_single_gpu_trains_by_a_graph(optimizer):
    given = {"optimizer": OPTIMIZERS[optimizer](), "callbacks": [Watches()]}
    assert chosen(**given) == chosen("on", **given) == (True, "")
    assert chosen("off", **given) == chosen(device=CPU, **given) == (False, "")


CYCLE, OWN = OneCycle(cycle_momentum=True), optimizer_of({"_target_": "torch.optim.RMSprop", "max_lr": 0.1})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainer": {"devices": 2}}, "several devices exchange gradients"),
        ({"trainer": {"strategy": "ddp"}}, "several devices exchange gradients"),
        ({"schedule": CYCLE}, "sgd reads on the host"),
        ({"schedule": CYCLE, "optimizer": AdamW()}, "adamw reads on the host"),
        ({"optimizer": OWN}, "your own optimizer"),
        ({"callbacks": [Watches(), Clips()]}, "Clips.on_before_optimizer_step is called within a step"),
    ],
)
def test_what_forbids_a_graph_is_said(changes, words):
    use, why = chosen(**changes)
    assert not use
    assert words in why
    with pytest.raises(InputError, match=r"trainer\.graph=on is not possible: .*Use trainer\.graph=auto"):
        chosen("on", **changes)
    assert chosen(device=CPU, **changes) == (False, "")


def test_a_cpu_has_no_graphs(command):
    ended = command("train", "dataset=digits", *SMALL, "trainer.graph=on")
    assert ended.code == 1
    assert ended.err.strip().endswith("trainer.graph=on is not possible: it is for GPUs. Use trainer.graph=auto")


def test_the_plan_says_why_there_is_no_graph(command, monkeypatch):
    monkeypatch.setattr("fastconv.training.plan.choose_graph", lambda *_: (False, "it is Sunday"))
    ended = command("train", "dataset=digits", *SMALL, "budget.seconds=null", "dry_run=true")
    assert "no CUDA graph of the step: it is Sunday" in ended.out


def test_muon_cycles_its_momentum_in_a_graph():
    assert chosen(optimizer=Muon(), schedule=CYCLE) == (True, "")


def test_a_network_of_ones_own_gets_a_graph_if_asked():
    """Nobody knows what it does on the host."""
    own = CustomNetwork.taking(())(_target_="torch.nn.Flatten")
    assert "your network" in chosen(model=own)[1]
    assert chosen("on", model=own) == (True, "")


def test_convolutions_are_tuned_while_training(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    callback, seen = TuneConvolutions(), []
    for event in ("on_validation_start", "on_validation_end", "on_train_start", "on_validation_start",
                  "on_validation_end", "on_train_end", "on_validation_start", "on_validation_end"):  # fmt: skip
        getattr(callback, event)(None, None)
        seen.append(torch.backends.cudnn.benchmark)
    assert seen == [False, False, True, False, True, False, False, False]
    callback.on_train_start(None, None)
    callback.on_exception(None, None, ValueError())
    assert not torch.backends.cudnn.benchmark
