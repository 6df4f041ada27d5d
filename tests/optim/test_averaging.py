"""Averaged weights: against a plain loop over the weights of a real training, and through stops."""

import csv

import numpy as np
import pytest
import torch
from harness import RUN, STEPS, only_run, run_command, same_weights, stop_at

from fastconv.analysis.checkpoint import load_run
from fastconv.budget.clock import Clock
from fastconv.callbacks import AverageWeights, TimeBudget
from fastconv.data.loading import load
from fastconv.optim.averaging import Lookahead, MovingAverage
from fastconv.runs.results import Results
from fastconv.training.module import ImageClassifier

DECAY, EVERY = 0.9, 4  # 26 steps: the last comes two after a regular time
SETTINGS = {kind: (f"average.kind={kind}", f"average.update_interval={EVERY}", f"average.decay={DECAY}")
            for kind in ("ema", "lookahead")}  # fmt: skip
Weights = dict[str, np.ndarray]


def snapshot(module: ImageClassifier) -> Weights:
    state = module.model.state_dict()
    return {name: value.double().numpy().copy() for name, value in state.items() if value.is_floating_point()}


def mean(first: Weights, second: Weights, share: float) -> Weights:
    return {name: (1 - share) * first[name] + share * second[name] for name in first}


def moving_averages(learning: list[Weights]) -> list[Weights]:
    """The average after each step, or None before the first; the last step counts whenever it comes."""
    found, average, last = [], None, 0
    for step, weights in enumerate(learning, start=1):
        if step % EVERY == 0 or step == len(learning):
            average = mean(weights, average, DECAY ** (step - last)) if average else weights
            last = step
        found.append(average)
    return found


def assert_close(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, digits_root):
    """By kind: the folder of a run, and its network's weights before each step, after it, and in each validation."""
    runs = {}
    for kind in ("none", "ema", "lookahead"):
        before, after, validated = [], [], {}
        folder = tmp_path_factory.mktemp(kind)
        configure = ImageClassifier.configure_optimizers

        def recording(self, configure=configure, before=before, after=after):
            optimizer = configure(self)
            optimizer.register_step_pre_hook(lambda *_: before.append(snapshot(self)))
            optimizer.register_step_post_hook(lambda *_: after.append(snapshot(self)))
            return optimizer

        def validation_step(self, *arguments, score=ImageClassifier.validation_step, after=after, validated=validated):
            validated[len(after)] = snapshot(self)
            return score(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageClassifier, "configure_optimizers", recording)
            patch.setattr(ImageClassifier, "validation_step", validation_step)
            ended = run_command(folder, digits_root, "train", *RUN, *SETTINGS.get(kind, ()))
        assert ended.code == 0, ended.err
        runs[kind] = only_run(folder), before, after, validated
    return runs


def saved(run) -> Weights:
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    return {
        name.removeprefix("model."): value.double().numpy()
        for name, value in state.items()
        if name.startswith("model.") and value.is_floating_point()
    }


def test_a_moving_average_leaves_the_training_as_it_is(recorded):
    (_, _, plain, _), (_, _, learning, _) = recorded["none"], recorded["ema"]
    assert len(plain) == STEPS
    for expected, found in zip(plain, learning, strict=True):
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_moving_average_is_what_is_validated_and_saved(recorded):
    run, _, learning, validated = recorded["ema"]
    averages = moving_averages(learning)
    assert sorted(validated) == [11, 22]
    for steps, weights in validated.items():
        assert_close(weights, averages[steps - 1])
    assert_close(saved(run), averages[-1])
    assert np.abs(saved(run)["linear.weight"] - learning[-1]["linear.weight"]).max() > 1e-3


def test_lookahead_pulls_slow_weights_and_ends_with_them(recorded):
    run, before, after, validated = recorded["lookahead"]
    slow = before[0]
    for name in slow:  # the statistics of the first batch are in already
        if "running" in name:
            slow[name] = np.full_like(slow[name], 1.0 if name.endswith("var") else 0.0)
    for step, fast in enumerate(after, start=1):
        starts = fast
        if step % EVERY == 0:
            slow = mean(fast, slow, DECAY**EVERY * (step / STEPS) ** 3)
            starts = slow
        if step in validated:
            assert_close(validated[step], starts)
        if step < STEPS:
            trainable = {name: value for name, value in starts.items() if "running" not in name}
            assert_close({name: before[step][name] for name in trainable}, trainable)
    assert_close(saved(run), slow)


def test_the_result_is_that_of_the_average(recorded, digits_root):
    """As explain and all else that reads a run's folder finds it."""
    trained = load_run(recorded["ema"][0])
    _, test = load("digits", digits_root)
    images = ((test.images / 255 - trained.mean) / trained.std).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(trained.model(torch.from_numpy(images)), torch.tensor(test.labels))
    assert trained.results.loss == pytest.approx(loss.item(), rel=1e-4)


def test_a_run_that_another_callback_ends_ends_with_the_average(command, tmp_path, recorded):
    """At its first validation, three steps after the last regular update."""
    stopping = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: validate/loss, stopping_threshold: 1e9}"
    ended = command("train", *RUN, *SETTINGS["ema"], f"callbacks=[{stopping}]")
    assert ended.code == 0, ended.err
    assert_close(saved(only_run(tmp_path)), moving_averages(recorded["ema"][2][:11])[-1])


def test_the_last_average_counts_as_training(monkeypatch):
    now = [0.0]
    budget = TimeBudget(None, 1, clock := Clock(lambda: now[0]))
    callback, module = AverageWeights(MovingAverage(EVERY, DECAY), budget), torch.nn.Module()
    module.model, budget.steps = torch.nn.Linear(1, 1), 1
    monkeypatch.setattr(callback.average, "update", lambda *_: now.append(now.pop() + 1))
    monkeypatch.setattr(callback.average, "finish", lambda *_: now.append(now.pop() + 2))
    callback.on_train_end(None, module)
    assert {name: spent for name, spent in clock.seconds().items() if spent} == {"train": 3}


@pytest.mark.parametrize("kind", ["ema", "lookahead"])
@pytest.mark.parametrize(("method", "call"), [("training_step", 10), ("validation_step", 1), ("test_step", 1)])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(command, tmp_path, monkeypatch, recorded, kind, method, call):
    with monkeypatch.context() as patch:
        stop_at(patch, method, call)
        assert command("train", *RUN, *SETTINGS[kind]).code == 143
    assert command("train", *RUN, *SETTINGS[kind], "resume=auto").code == 0
    run, undisturbed = only_run(tmp_path), recorded[kind][0]
    assert same_weights(run, undisturbed)

    def last_validation(folder):  # one that was interrupted is left out
        with (folder / "metrics.csv").open() as file:
            return [(row["step"], row["validate/loss"]) for row in csv.DictReader(file) if row["validate/loss"]][-1]

    assert last_validation(run) == last_validation(undisturbed)
    assert Results.read(run).loss == Results.read(undisturbed).loss


def test_time_that_ran_out_before_the_last_step_leaves_the_average(command, tmp_path, monkeypatch, recorded):
    """Of a run that was killed; the checkpoint has it too. A last step at a learning rate near 0 moves no weight."""
    run = (*RUN, *SETTINGS["ema"], "budget.seconds=500")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 10)
        assert command("train", *run).code == 143
    folder = only_run(tmp_path)
    stopped = Results.read(folder)
    stopped.seconds["train"] = 499.999
    stopped.write(folder)
    learning = saved(folder)
    assert_close(learning, recorded["ema"][2][9])
    assert command("train", *run, "resume=auto").code == 0
    assert Results.read(folder).steps == 11
    steps = recorded["ema"][2][:10]
    found, expected = saved(folder), moving_averages([*steps, steps[-1]])[-1]
    learned = [name for name in found if "running" not in name]
    assert_close({name: found[name] for name in learned}, {name: expected[name] for name in learned})
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 11


@pytest.mark.parametrize("steps", [2, 12, 13])
def test_averages_of_numbers(steps):
    """One weight that is 1, 2, 3, ... after each step."""
    numbers = [float(number) for number in range(1, steps + 1)]
    average, weights = MovingAverage(EVERY, DECAY), {"weight": torch.zeros(1)}
    average.start(weights)
    for step, number in enumerate(numbers, start=1):
        weights["weight"].fill_(number)
        if average.is_due(step) or step == steps:
            average.update(weights, step, step / steps)
    average.finish(weights)
    expected = moving_averages([{"weight": np.array([number])} for number in numbers])[-1]
    assert weights["weight"].item() == pytest.approx(expected["weight"].item())
    assert not average.slow


def test_lookahead_begins_where_the_weights_are():
    average, weights = Lookahead(1, 0.5), {"weight": torch.full((2,), 8.0)}
    average.start(weights)
    weights["weight"] += 8
    average.update(weights, 1, 1.0)
    assert weights["weight"].tolist() == [12.0, 12.0], "half of the way from the first weights"


@pytest.mark.parametrize(("steps", "ends_with"), [(3, 3.0), (4, 4.0), (6, 4.0)])
def test_lookahead_keeps_what_was_learned_before_a_first_update(steps, ends_with):
    """One weight that is 1, 2, 3, ... after each step. The first update, at no progress, takes it as it is."""
    average, weights = Lookahead(EVERY, DECAY), {"weight": torch.zeros(1)}
    average.start(weights)
    for step in range(1, steps + 1):
        weights["weight"].fill_(step)
        if average.is_due(step) or step == steps:
            average.update(weights, step, 0.0)
    average.finish(weights)
    assert weights["weight"].item() == ends_with
