"""Data pruning by a proxy network, on the digits."""

import dataclasses
import itertools
import json
import math
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import SMALL, noise, only_run, spec_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from fastconv.budget.autotune.data_pruning import most_seconds, proxy_confidence, skip_schedule, skips
from fastconv.budget.autotune.settings import Autotune
from fastconv.budget.hardware import Device
from fastconv.config.schema import Budget
from fastconv.data.augment.plan import SkipSchedule, plan_epoch
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.flip import Flip
from fastconv.data.loading import load
from fastconv.data.stream.reader import PrecomputedStream
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.writer import write_stream
from fastconv.system.errors import RunWarning

CPU = Device("cpu", "a processor", "fp32", threads=1, keep_memory=False, compile=False)


def test_the_most_confident_images_skip_by_turns():
    confidence = np.array([0.9, 0.1, 0.8, 0.3, 0.7, 0.6, 0.2, 0.5, 0.4, 0.95])
    schedule = skips(confidence, 0.2)
    assert {row: int(turn) for row, turn in enumerate(schedule) if turn} == {9: 1, 0: 2, 2: 1, 4: 2}
    assert not skips(confidence, 0.01).any()


def test_an_epoch_has_all_images_that_do_not_skip_it_once():
    schedule = skips(np.random.default_rng(0).random(1000), 0.3)
    plans = [plan_epoch(0, epoch, 1000, 8, 8, Policy(flip=Flip(0.5)), SkipSchedule(schedule)) for epoch in range(4)]
    everything = [plan_epoch(0, epoch, 1000, 8, 8, Policy(flip=Flip(0.5))) for epoch in range(4)]
    for epoch, (plan, whole) in enumerate(zip(plans, everything, strict=True)):
        assert sorted(plan.order) == [row for row in range(1000) if schedule[row] != 1 + epoch % 2]
        assert len(plan.order) == 700
        kept = np.isin(whole.order, plan.order)
        np.testing.assert_array_equal(plan.order, whole.order[kept])
        np.testing.assert_array_equal(plan.drawn("flip"), whole.drawn("flip")[kept])
    seen = Counter(row for plan in plans for row in plan.order)
    assert {seen[row] for row in np.flatnonzero(schedule)} == {2}
    assert {seen[row] for row in np.flatnonzero(schedule == 0)} == {4}


def test_images_that_skip_every_other_epoch_are_shown_both_ways_by_turns_too():
    turns = SkipSchedule(np.repeat(np.arange(3, dtype=np.int8), 100))
    shown: dict[int, list[bool]] = {}
    for epoch in range(8):
        plan = plan_epoch(0, epoch, 300, 8, 8, Policy(flip=Flip(0.5, "alternating")), turns)
        for row, flipped in zip(plan.order.tolist(), plan.drawn("flip").tolist(), strict=True):
            shown.setdefault(row, []).append(flipped)
    assert Counter(map(len, shown.values())) == {8: 100, 4: 200}
    for row, ways in shown.items():
        assert all(before != after for before, after in itertools.pairwise(ways)), row
    firsts = np.array([shown[row][0] for row in range(300)]).reshape(3, 100)
    assert ((firsts.mean(1) > 0.35) & (firsts.mean(1) < 0.65)).all(), "of each kind, half begin mirrored"


def test_streams_with_fewer_images_of_earlier_versions_are_found_again_unless_their_flips_alternate():
    schedule = SkipSchedule(skips(np.arange(57.0), 0.2))

    def fingerprint(flip: Flip, sampling: str = "") -> str:
        spec = spec_of(noise(57, 3), Policy(flip=flip))
        return dataclasses.replace(spec, samples=46, skip_schedule=schedule.digest, sampling=sampling).fingerprint

    assert fingerprint(Flip(0.5)) == "a7855b531cc6ef22"
    assert fingerprint(Flip(0.5, "alternating"), "balanced") == "9e2d1db36daf91a9"
    assert fingerprint(Flip(0.5, "alternating")) != "cd06b39349802a48", "its images were always shown the same way"


@pytest.mark.usefixtures("small_blocks")
def test_a_stream_of_fewer_images_is_the_same_from_disk(tmp_path):
    data = noise(57, 3)
    whole = spec_of(data)
    schedule = SkipSchedule(skips(np.arange(57.0), 0.2))
    data = dataclasses.replace(data, skip_schedule=schedule)
    spec = dataclasses.replace(whole, samples=int(schedule.kept(0).sum()), skip_schedule=schedule.digest)
    assert spec.samples == 57 - 11
    assert spec.fingerprint != whole.fingerprint
    write_stream(spec, data, tmp_path, 2)
    for epoch in (0, 1):
        rows = epoch * spec.samples, (epoch + 1) * spec.samples
        pairs = zip(
            OnlineStream(spec, data).rows(*rows), PrecomputedStream(spec, tmp_path, None).rows(*rows), strict=True
        )
        for online, stored in pairs:
            np.testing.assert_array_equal(online, stored)


def test_another_classifier_is_confident_on_the_same_images(digits_root):
    train, _ = load("digits", digits_root)
    confidence = proxy_confidence(spec_of(train), train, CPU)
    assert confidence.shape == (len(train),)
    assert ((confidence > 0) & (confidence < 1)).all()
    pixels, everyone = train.images.reshape(len(train), -1) / 255, np.arange(len(train))
    predicted = cross_val_predict(LogisticRegression(C=0.1), pixels, train.labels, method="predict_proba", cv=3)
    others = predicted[everyone, train.labels]
    order = np.argsort(-confidence)
    assert others[order[:400]].mean() > others[order[-400:]].mean() + 0.08
    assert np.corrcoef(others, confidence)[0, 1] > 0.2


def test_images_are_selected_once(digits_root, tmp_path):
    train, _ = load("digits", digits_root)
    spec = spec_of(train)

    def schedule(share: float) -> np.ndarray:
        return skip_schedule(spec, train, CPU, share, tmp_path, Autotune(proxy_steps=5)).skips

    first = schedule(0.3)
    assert Counter(first) == {0: len(train) - 2 * 431, 1: 431, 2: 431}
    (kept,) = tmp_path.glob("skip_schedule-*.npy")
    np.save(kept, other := first[::-1].copy())
    assert (schedule(0.3) == other).all(), "the kept one is read"
    for damaged in (np.ones_like(first), first + 3, first.astype(np.int16), first[:-1]):
        np.save(kept, damaged)
        assert (schedule(0.3) == first).all()
    kept.write_bytes(b"half of it")
    assert (schedule(0.3) == first).all()
    kept.unlink()
    os.mkfifo(kept)
    assert (schedule(0.3) == first).all()
    assert (schedule(0.1) > 0).sum() == 2 * 144
    kept.unlink()
    kept.mkdir()  # so that it cannot be written
    with pytest.warns(RunWarning, match="a measurement is not kept"):
        assert (schedule(0.3) == first).all()


def test_training_to_select_images_ends_in_time(digits_root, monkeypatch):
    """The machine is so slow that the time is over after the third batch."""
    train, _ = load("digits", digits_root)
    spec, given, steps = spec_of(train), [], []
    clock = itertools.count(0.0, 4.0)
    monkeypatch.setattr("fastconv.budget.autotune.data_pruning.time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def train_proxy(data, network, device, batches, count, label_smoothing):
        given.extend(itertools.islice(batches, count))
        steps.append(count)
        return lambda images: torch.zeros(len(images), 10)

    monkeypatch.setattr("fastconv.budget.autotune.data_pruning.train_proxy", train_proxy)
    assert len(proxy_confidence(spec, train, CPU, seconds=15.0)) == len(train)
    assert (len(given), steps) == (3, [100])


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [
        (Budget(1000.0, ["train", "precompute"]), 90.0),
        (Budget(1000.0, ["train"]), math.inf),
        (Budget(None, ["train", "precompute"]), math.inf),
    ],
)
def test_only_a_budget_that_counts_the_selection_limits_it(budget, seconds):
    assert most_seconds(budget) == pytest.approx(seconds)


def test_a_run_with_data_pruning_learns_and_goes_on_with_the_same_stream(command, tmp_path):
    given = (
        *SMALL,
        "dataset=digits",
        "data_pruning=0.3",
        "budget.seconds=null",
        "schedule.max_epochs=6",
        "resume=auto",
    )
    ended = command("train", *given, "outputs=whole")
    assert ended.code == 0, ended.err
    assert "1,438 training images" in ended.out
    assert "1,007 of them in each epoch" in ended.out
    run = only_run(tmp_path / "whole")
    results = json.loads((run / "results.json").read_text())
    assert results["hparams"]["data_pruning"] == 0.3
    assert results["epochs"] == pytest.approx(results["steps"] * 64 / 1007, rel=1e-3)
    assert results["seconds"]["precompute"] > 0
    assert results["accuracy"] > 0.9
    (run / "results.json").write_text(json.dumps(results | {"stop_reason": "interrupt"}))
    ended = command("train", *given, "outputs=whole")
    assert "going on in" in ended.out
    assert json.loads((run / "results.json").read_text())["accuracy"] == results["accuracy"]


def test_a_share_that_cannot_be_pruned(command):
    ended = command("train", "dataset=digits", "data_pruning=0.5")
    assert ended.code == 1
    assert "data_pruning=0.5 is not possible: give a share in [0, 0.5)" in ended.err
