"""Ranks in threads, each with a clock of its own: they take the same steps, and the first one's clock decides."""

import contextlib
import itertools
import threading
from types import SimpleNamespace

import pytest
import torch

from fastconv.budget.clock import Clock
from fastconv.budget.foresight import Foresight, foresee
from fastconv.budget.next_step import Step, before_update, next_step
from fastconv.budget.pacing import StepTimes
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.callbacks import Checkpoints, FiniteLoss, TimeBudget
from fastconv.system.errors import SharedError
from fastconv.system.signals import Interrupted
from fastconv.training import agreement
from fastconv.training.callbacks import ShareSteps

COUNTS = ("train", "validate", "checkpoint")


class Exchange:
    """What a process group does, between threads: the n-th exchange of each rank is one exchange."""

    def __init__(self, ranks):
        self.ranks, self.given, self.changed = ranks, {}, threading.Condition()
        self.rank = threading.local()
        self.blocking = [0] * ranks

    def of(self, numbers, waits):
        rank = self.rank.number
        if waits:
            self.blocking[rank] += 1
        place = self.rank.exchanges = getattr(self.rank, "exchanges", -1) + 1
        with self.changed:
            self.given.setdefault(place, {})[rank] = numbers.clone()
            self.changed.notify_all()

        def wait():
            with self.changed:
                assert self.changed.wait_for(lambda: len(self.given[place]) == self.ranks, timeout=300)
                for other in self.given[place].values():
                    torch.maximum(numbers, other, out=numbers)

        if waits:
            wait()
        return SimpleNamespace(wait=wait)


@pytest.fixture
def exchange(monkeypatch):
    made = Exchange(2)
    monkeypatch.setattr(agreement.Agreement, "open", lambda self: None)
    monkeypatch.setattr(agreement.Agreement, "_exchange", lambda self, numbers, waits: made.of(numbers, waits))
    monkeypatch.setattr(agreement, "is_first_rank", lambda: made.rank.number == 0)
    return made


class Scored:
    """A network that scores images in no time."""

    device = torch.device("cpu")

    def __call__(self, images):
        return torch.zeros(len(images), 3)

    def modules(self):
        return ()

    def eval(self):
        pass


class Rank:
    """A rank whose steps take some seconds each on its own clock; `extra` of them at some steps."""

    def __init__(self, seconds, extra=None, budget=10.0, validate_at=(), early=True, max_steps=None):
        self.now, self.seconds, self.extra = 0.0, seconds, extra or {}
        self.budget = TimeBudget(budget, max_steps, Clock(lambda: self.now), COUNTS, 0.1, validate_images=10)
        self.budget.reserve.update(image_seconds=0.01)
        self.validate_at, self.early, self.taken, self.validated = validate_at, early, [], []
        self.module = Scored()
        self.trainer = SimpleNamespace(
            world_size=2, accumulate_grad_batches=1, limit_val_batches=1, should_stop=False, sanity_checking=False,
            callbacks=[], model=SimpleNamespace(),
            precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
        )  # fmt: skip

    def train(self):
        budget, trainer, module = self.budget, self.trainer, self.module
        share = ShareSteps(budget)
        budget.setup(trainer, module, "fit")
        budget.on_train_start(trainer, module)
        for index in itertools.count():
            batch = (torch.zeros(2, 1, 1), None)
            budget.on_train_batch_start(trainer, module, batch, index)
            self.now += self.seconds / 3
            if self.early:
                share.on_before_backward(trainer, module, None)
            self.now += self.seconds * 2 / 3 + self.extra.get(index, 0.0)
            budget.decide_before_update(trainer, module)
            budget.on_train_batch_end(trainer, module, None, batch, index)
            self.taken.append((budget.progress, budget.step.last))
            self.after_step(index)
            if trainer.should_stop:
                break
            if index in self.validate_at and trainer.limit_val_batches:
                budget.on_validation_start(trainer, module)
                self.now += 0.1
                budget.on_validation_end(trainer, module)
                self.validated.append(index)

    def after_step(self, index):
        pass


def train(exchange, *ranks):
    failed = []

    def run(number, rank):
        exchange.rank.number = number
        try:
            rank.train()
        except BaseException as error:
            failed.append((number, error))

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "a rank waits for ever"
    return dict(failed)


@pytest.mark.parametrize("early", [True, False], ids=["shared early", "not shared"])
def test_ranks_whose_clocks_differ_take_the_same_steps(exchange, early):
    first, second = (
        Rank(0.1, early=early, validate_at=(20, 40)),
        Rank(0.23, {7: 9.0}, early=early, validate_at=(20, 40)),
    )
    assert train(exchange, first, second) == {}
    assert first.taken == second.taken
    assert first.validated == second.validated == [20, 40]
    assert first.taken[-1] == (1.0, True)
    assert 9.0 <= first.now <= 10.0, "by the first rank's clock the budget is used, and kept"
    progress = [each for each, _ in first.taken]
    assert progress == sorted(progress)
    # Only the start of training, and each step after a validation, waits for the other rank.
    assert exchange.blocking == [4, 4]


class Scoring(Rank):
    """A rank that takes 10 ms to score an image. With the other one it scores 200, as the benchmark knows."""

    def __init__(self):
        super().__init__(0.1)
        reserve = ScoringReserve(200, image_seconds=0.005)
        self.budget = TimeBudget(10.0, None, Clock(lambda: self.now), COUNTS, 0.1, reserve=reserve)
        self.module = Timed()
        self.module.rank = self


class Timed(Scored):
    def __call__(self, images):
        self.rank.now += 0.01 * len(images)
        return super().__call__(images)


def test_ranks_that_share_the_images_to_score_keep_the_time_for_their_share(exchange):
    ranks = Scoring(), Scoring()
    assert train(exchange, *ranks) == {}
    assert ranks[0].taken[-1] == (1.0, True)
    assert 9.5 <= ranks[0].now + 100 * 0.01 <= 10


def test_a_stall_of_the_first_rank_ends_the_run_with_a_whole_schedule(exchange):
    first, second = Rank(0.1, {50: 6.0}), Rank(0.1)
    assert train(exchange, first, second) == {}
    assert first.taken == second.taken
    assert first.taken[-1][0] == 1.0
    # It stops after the message of the step that stalled: one more step ends the schedule.
    assert len(first.taken) == 52
    assert first.now <= 10.0 + 1.3


def test_steps_alone_end_a_run_as_those_of_one_rank(exchange):
    ranks = Rank(0.1, budget=None, max_steps=7), Rank(0.3, budget=None, max_steps=7)
    assert train(exchange, *ranks) == {}
    assert [progress for progress, _ in ranks[1].taken] == pytest.approx([(step + 1) / 7 for step in range(7)])
    assert all(rank.budget.stop_reason == "epochs" for rank in ranks)


class Checked(Rank):
    """A rank with the guard of the loss; its loss is infinite at one step."""

    def __init__(self, infinite=None, **settings):
        super().__init__(0.1, **settings)
        self.infinite = infinite
        self.guard = FiniteLoss(self.budget, SimpleNamespace(latest={}))
        self.trainer.optimizers = [SimpleNamespace(param_groups=[{"lr": 0.1}])]

    def train(self):
        self.guard.setup(self.trainer, self.module, "fit")
        super().train()

    def after_step(self, index):
        loss = torch.tensor(float("inf") if index == self.infinite else 1.0)
        self.guard.on_train_batch_end(self.trainer, self.module, {"loss": loss}, None, index)


@pytest.mark.parametrize("at", [0, 3, 9], ids=["first", "middle", "last"])
def test_an_infinite_loss_of_one_rank_ends_all_at_the_same_step(exchange, at):
    ranks = Checked(budget=None, max_steps=10), Checked(at, budget=None, max_steps=10)
    failed = train(exchange, *ranks)
    assert set(failed) == {0, 1}
    for error in failed.values():
        assert isinstance(error, SharedError)
        assert f"the loss is not finite after step {at + 1}" in str(error)
    assert len(ranks[0].taken) == len(ranks[1].taken) == min(at + 2, 10)


class Saved(Rank):
    """A rank with checkpoints, which are only counted; a signal arrives at one step."""

    def __init__(self, signal_at=None, **settings):
        super().__init__(0.1, **settings)
        self.signal_at, self.saved = signal_at, []
        self.checkpoints = Checkpoints(None, 1.0, self.budget)
        self.checkpoints.save = lambda trainer: self.saved.append(self.budget.steps)
        self.trainer.val_check_batch = 1000

    def train(self):
        self.checkpoints.setup(self.trainer, self.module, "fit")
        super().train()
        self.checkpoints.raise_interrupted(self.trainer)  # as `fit` does when the trained network is saved

    def after_step(self, index):
        self.received = 15 if self.signal_at is not None and index >= self.signal_at else None
        self.checkpoints.on_train_batch_end(self.trainer, self.module, None, None, index)


@pytest.mark.parametrize(("steps", "saved"), [(50, 12), (11, 11)], ids=["in the middle", "in the last step"])
def test_a_signal_to_one_rank_ends_all_at_the_same_step(exchange, monkeypatch, steps, saved):
    """The checkpoint is of the step after the one that the signal came in. After the last one they end before they
    score."""
    ranks = Saved(budget=None, max_steps=steps), Saved(10, budget=None, max_steps=steps)
    received = "fastconv.training.callbacks.checkpoints.signals.received"
    monkeypatch.setattr(received, lambda: getattr(ranks[exchange.rank.number], "received", None))
    failed = train(exchange, *ranks)
    assert all(isinstance(error, Interrupted) and error.exit_code == 143 for error in failed.values())
    assert set(failed) == {0, 1}
    assert ranks[0].saved == ranks[1].saved
    assert ranks[0].budget.steps == ranks[1].budget.steps == saved


def test_what_is_foreseen_is_what_one_rank_decides_at_the_end():
    times = StepTimes(0.1)
    for _ in range(8):
        times.add(0.1)
    for done in range(40):
        elapsed, step = 0.1 * (done + 1), Step(0.1 * (done + 1) / 4, last=False)
        found = foresee(step, done, None, elapsed, 4.0, times, 0.0, 0.0)
        assert found.current == before_update(step, elapsed, 4.0, times)
        assert found.following == next_step(done + 1, None, elapsed, 4.0, times, found.current.progress)
        assert Foresight.of(found.numbers()) == found
        if found.stop:
            assert found.current.last or found.following is None
            break
    assert done > 30
