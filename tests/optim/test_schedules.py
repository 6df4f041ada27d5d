"""Schedules as functions of progress."""

import itertools
import math
import warnings

import lightning as L
import pytest
import torch

from fastconv.callbacks import OneCycleLR, ScheduleLR, TimeBudget
from fastconv.models.configs import HEAD_WORK
from fastconv.optim.schedules import NOMINAL_STEPS, Constant, Cosine, Linear, OneCycle, Step

POSITIONS = [round(k * (NOMINAL_STEPS - 1) / 999) for k in range(1000)]
CASES = [
    {"cycle_momentum": cycled, "three_phase": phases, "anneal_strategy": anneal}
    for cycled, phases, anneal in itertools.product((False, True), (False, True), ("linear", "cos"))
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_one_cycle_is_torchs_at_1000_positions(settings):
    """Torch's scheduler is set before each position and steps to it; ours is asked at the same ones, in any order."""
    settings = {"pct_start": 0.3, "div_factor": 10.0, "final_div_factor": 500.0, **settings}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=NOMINAL_STEPS, **settings)
    optimizer.step()
    expected = {}
    for step in POSITIONS:
        scheduler.last_epoch = step - 1
        scheduler.step()
        expected[step] = (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"])
    ours = OneCycle(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch has one for whoever asks outside of its own step
        found = {step: ours.factors(step / (NOMINAL_STEPS - 1)) for step in reversed(POSITIONS)}
    for step, (lr, momentum) in found.items():
        assert lr == pytest.approx(expected[step][0], rel=1e-9, abs=1e-12)
        assert momentum == (pytest.approx(expected[step][1], rel=1e-9) if settings["cycle_momentum"] else None)


def test_one_cycle_of_the_original_recipe():
    schedule = OneCycle()
    assert schedule.factors(0).lr == pytest.approx(1 / 25)
    assert schedule.factors(0.2).lr == pytest.approx(1, abs=1e-4)
    assert schedule.factors(1).lr == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize("schedule", [Cosine(warmup=0.1), Linear(warmup=0.1)])
def test_warm_up_and_descent(schedule):
    assert schedule.factors(0).lr == 0
    assert schedule.factors(0.05).lr == pytest.approx(0.5)
    assert schedule.factors(0.1).lr == pytest.approx(1)
    assert schedule.factors(0.55).lr == pytest.approx(0.5)
    assert schedule.factors(1).lr == pytest.approx(0, abs=1e-12)
    quarter = schedule.factors(0.1 + 0.9 / 4).lr
    assert quarter == pytest.approx((1 + math.cos(math.pi / 4)) / 2 if isinstance(schedule, Cosine) else 0.75)


def test_other_schedules():
    assert {Constant().factors(k / 10).lr for k in range(11)} == {1.0}
    assert Cosine(min_lr_ratio=0.2).factors(1).lr == pytest.approx(0.2)
    step = Step(milestones=[0.3, 0.6], gamma=0.5)
    assert [step.factors(at).lr for at in (0, 0.29, 0.3, 0.59, 0.6, 1)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


# -- as callbacks of a normal Trainer


class Line(L.LightningModule):
    """A module of one's own, with an optimizer of one's own; notes what the callback set."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        group = self.optimizers().param_groups[0]
        self.seen.append((group["lr"], group["momentum"]))
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.25, momentum=0.7)

    def train_dataloader(self):
        return itertools.repeat(torch.ones(2, 1))


def train(module, callbacks, **settings):
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=callbacks, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, **settings)  # fmt: skip
    trainer.fit(module)


def test_one_cycle_callback_follows_the_budgets_steps():
    module = Line()
    train(module, [OneCycleLR(max_lr=0.5, cycle_momentum=True, pct_start=0.25), TimeBudget(max_steps=40)])
    schedule = OneCycle(cycle_momentum=True, pct_start=0.25)
    assert len(module.seen) == 40
    for step, (lr, momentum) in enumerate(module.seen, start=1):
        factors = schedule.factors(step / 40)
        assert (lr, momentum) == (pytest.approx(0.5 * factors.lr), pytest.approx(factors.momentum))


def test_schedule_keeps_an_optimizers_own_peak_and_momentum():
    module = Line()
    train(module, [TimeBudget(max_steps=6), ScheduleLR(Linear())])
    expected = [0.25 * (1 - step / 6) for step in range(1, 7)]
    assert [lr for lr, _ in module.seen] == pytest.approx(expected)
    assert {momentum for _, momentum in module.seen} == {0.7}


def test_a_schedule_needs_a_budget():
    with pytest.raises(ValueError, match="add a TimeBudget"):
        train(Line(), [OneCycleLR(max_lr=0.5)])
    with pytest.raises(ValueError, match="seconds or max_steps"):
        TimeBudget()
    with pytest.raises(ValueError, match="accumulate gradients within training_step"):
        train(Line(), [TimeBudget(max_steps=2), ScheduleLR(Linear())], accumulate_grad_batches=2)


class Parted(Line):
    """Two groups: one learns for a part of the run only."""

    def training_step(self, batch, batch_idx):
        self.seen.append([group["lr"] for group in self.optimizers().param_groups])
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        groups = [
            {"params": [self.layer.weight], "max_lr": 0.5},
            {"params": [self.layer.bias], "max_lr": 2.0, "schedule_fraction": 0.5},
        ]
        return torch.optim.AdamW(groups, lr=1.0)


def test_each_group_has_its_own_peak_and_end():
    module = Parted()
    train(module, [ScheduleLR(Linear()), TimeBudget(max_steps=8)])
    steps = [step / 8 for step in range(1, 9)]
    expected = [[0.5 * (1 - at), 2.0 * max(0.0, 1 - 2 * at)] for at in steps]
    torch.testing.assert_close(torch.tensor(module.seen), torch.tensor(expected))
    constant = Parted()
    train(constant, [ScheduleLR(Constant()), TimeBudget(max_steps=8)])
    assert constant.seen == [[0.5, 2.0 if at < 0.5 else 0.0] for at in steps]


class Deep(Parted):
    """As airbench has it: the first layer's bias, which is trained for a part of the run."""

    def __init__(self, is_compiled=False):
        super().__init__()
        self.is_compiled, self.needed, self.given = is_compiled, [], []

    def training_step(self, batch, batch_idx):
        self.needed.append(self.layer.bias.requires_grad)
        return self.layer(batch).square().mean()

    def on_before_optimizer_step(self, optimizer):
        self.given.append(self.layer.bias.grad is not None)


def test_a_group_that_is_done_gets_no_gradients():
    """The weights are, bit for bit, those of a run that computes them all the same, as one that is compiled does."""
    one, other = Deep(), Deep(is_compiled=True)
    other.load_state_dict(one.state_dict())
    for module in (one, other):
        train(module, [ScheduleLR(Linear()), TimeBudget(max_steps=8)])
    assert one.needed == [True] * 3 + [False] * 5
    assert one.given == [True] * 3 + [False] * 5
    assert all(other.needed + other.given)
    assert one.layer.bias.requires_grad, "after the run it is as it was"
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_run_that_fails_leaves_the_parameters_as_they_were():
    module = Deep()

    def fail(optimizer):
        if not module.needed[-1]:
            raise RuntimeError("stop")

    module.on_before_optimizer_step = fail
    with pytest.raises(RuntimeError, match="stop"):
        train(module, [ScheduleLR(Linear()), TimeBudget(max_steps=8)])
    assert not module.needed[-1]
    assert module.layer.bias.requires_grad


def test_momentum_of_adam_is_its_first_beta():
    module = Line()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=0.1, betas=(0.5, 0.98))
    module.training_step = lambda batch, batch_idx: (
        module.seen.append(module.optimizers().param_groups[0]["betas"]),
        module.layer(batch).square().mean(),
    )[1]
    train(module, [OneCycleLR(cycle_momentum=True, pct_start=0.5), TimeBudget(max_steps=8)])
    assert min(beta for beta, _ in module.seen) == pytest.approx(0.85, abs=1e-4)
    assert module.seen[-1] == (pytest.approx(0.95), 0.98)


def test_steps_that_train_the_last_layers_alone_count_as_their_share_of_the_work():
    """Whatever is decided again before the update."""
    module = Line()
    module.configure_optimizers = lambda: torch.optim.SGD(
        [
            {"params": [module.layer.weight], "schedule_start": 0.5},
            {"params": [module.layer.bias]},
        ],
        lr=0.1,
    )
    module.training_step = lambda batch, batch_idx: module.layer(batch).square().mean()
    budget = TimeBudget(max_steps=8)
    train(module, [budget, ScheduleLR(Linear())])
    assert budget.worked == pytest.approx(3 * HEAD_WORK + 5), "the first layer learns from half of the run on"


def test_a_group_that_waits_begins_with_new_momenta_where_its_gradients_are_computed():
    """As on several ranks, or in a compiled step: its weights end as where no gradients are computed meanwhile."""
    ends = []
    for is_compiled in (False, True):
        module = Line()
        module.is_compiled = is_compiled
        with torch.no_grad():
            module.layer.weight.fill_(0.5), module.layer.bias.fill_(0.25)
        groups = [{"params": [module.layer.weight], "schedule_start": 0.5}, {"params": [module.layer.bias]}]
        module.configure_optimizers = lambda groups=groups: torch.optim.AdamW(groups, lr=0.1)
        module.training_step = lambda batch, batch_idx, module=module: module.layer(batch).square().mean()
        train(module, [TimeBudget(max_steps=8), ScheduleLR(Linear())])
        ends.append([module.layer.weight.item(), module.layer.bias.item()])
    assert ends[0] == ends[1]
    assert ends[0][0] != 0.5
