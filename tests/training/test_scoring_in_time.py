"""Scoring in the time that is left: some of the test images, if there is no time for all."""

from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from harness import SMALL, noise, only_run
from lightning.pytorch.trainer.states import TrainerFn

from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.data.batches import SplitBatches
from fastconv.models.tta import Views
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.training.module import ImageClassifier

EVERYTHING = "budget.counts=[setup,benchmark,precompute,compile,train,validate,checkpoint,test]"


def test_each_mixed_batch_is_an_even_sample(monkeypatch):
    monkeypatch.setattr("fastconv.data.batches.images_at_once", lambda shape: 10)
    data = noise(57, 1)
    data.labels[:] = np.arange(57) // 19  # sorted by class, as folders are
    plain, mixed = (list(SplitBatches(data, mixed=each)) for each in (False, True))
    assert [len(labels) for _, labels in mixed] == [len(labels) for _, labels in plain]
    assert all(np.ptp(np.bincount(labels)) <= 1 for _, labels in mixed)
    batches = SplitBatches(data, mixed=True)
    rows = np.concatenate([images for images, _ in mixed])
    assert (batches.images(torch.tensor([0, 30, 56])).numpy() == rows[[0, 30, 56]]).all()
    assert sorted(map(bytes, rows)) == sorted(map(bytes, data.images))


@pytest.mark.parametrize("mixed", [False, True])
def test_each_rank_has_images_in_each_batch(monkeypatch, mixed):
    """Also where a batch is to have one image, and a rank has one less than the other: metrics refuse an empty one."""
    monkeypatch.setattr("fastconv.data.batches.images_at_once", lambda shape: 1)
    data = noise(5, 1)
    first, second = ([len(labels) for _, labels in SplitBatches(data, None, rank, 2, mixed)] for rank in (0, 1))
    assert sorted(first) == [1, 2]
    assert second == [1, 1]


def test_a_batch_is_scored_if_there_is_time_for_it():
    left = 10.0
    reserve = ScoringReserve(images=30, image_seconds=0.1, finish_seconds=0.5)
    reserve.start_scoring(30, lambda: left)
    assert reserve.has_time(10)
    reserve.scored(10, 4.0)
    assert reserve.has_time(10)
    left = 4.0 + 0.6
    assert not reserve.has_time(10)


def test_views_in_the_time_that_is_left_have_the_precision_of_all_others(monkeypatch):
    torch.manual_seed(0)
    data, given = noise(40, 1), []
    module = ImageClassifier("davidnet", {"width": 8}, (9, 11, 1), data.classes, (0.5,), (0.3,), views=Views(True, 1))
    module.model.linear.weight.data *= 100
    monkeypatch.setattr(module.test_accuracy_tta, "update", lambda logits, labels: given.append(logits.sort(0).values))
    for reserve in (None, ScoringReserve(images=40, image_seconds=0.01)):
        if reserve:
            reserve.start_scoring(40, lambda: 1e9)
        module.scoring_time = reserve
        trainer = L.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_progress_bar=False,
                            enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
        trainer.test(module, SplitBatches(data), verbose=False)
    in_steps, in_time = given
    assert in_steps.std() > 0.1
    torch.testing.assert_close(in_time, in_steps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seconds", [0.005, 3.0])
def test_a_machine_that_becomes_slow_scores_some_of_the_images(command, tmp_path, monkeypatch, simulated_time, seconds):
    forward = ImageClassifier.forward

    def slow(self, images):
        simulated_time.seconds += seconds * (self.trainer.state.fn == TrainerFn.TESTING)
        return forward(self, images)

    monkeypatch.setattr(ImageClassifier, "forward", slow)
    monkeypatch.setattr("fastconv.data.batches.images_at_once", lambda shape: 50)
    monkeypatch.setattr("fastconv.training.scored_module.time", SimpleNamespace(perf_counter=simulated_time))
    ended = command("train", "dataset=digits", *SMALL, "schedule.max_epochs=null", "budget.seconds=10", EVERYTHING,
                    "validate.on=none", "stream=online")  # fmt: skip
    assert ended.code == 0, ended.err
    results = Results.read(only_run(tmp_path))
    assert results.final_lr < 0.01
    assert 0 <= results.accuracy <= 1
    if seconds < 1:
        assert results.test_skipped == 0
        assert results.seconds_counted <= 10
        assert "no time to score" not in ended.out
    else:
        assert results.test_skipped == 359 - 45, "the first batch is scored in any case"
        assert results.seconds_counted <= 10 + seconds
        assert "no time to score 314" in ended.out.replace("\n", " ")


def test_a_trained_network_is_scored_however_long_the_next_start_takes(command, tmp_path, monkeypatch, simulated_time):
    """The process that trained it was stopped. The next one starts on a machine that is so busy that this alone takes
    longer than the budget."""
    given = ("dataset=digits", *SMALL, "schedule.max_epochs=null", "budget.seconds=3", EVERYTHING,
             "validate.on=none", "stream=online")  # fmt: skip

    def stopped(*_):
        raise InputError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("fastconv.training.fit.score", stopped)
        assert command("train", *given).code == 1
    run = only_run(tmp_path)
    steps = Results.read(run).steps
    assert steps > 5
    monkeypatch.setattr("fastconv.train.take_start_seconds", lambda: 30.0)
    ended = command("train", f"resume={run}")
    assert ended.code == 0, ended.err
    results = Results.read(run)
    assert (results.steps, results.stop_reason, results.resumed) == (steps, "budget", 1)
    assert results.accuracy is not None
    assert results.seconds["setup"] > 30
