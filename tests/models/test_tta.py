"""Test-time augmentation against a loop over images and views."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from harness import only_run
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from fastconv.budget.pacing import Pacing
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.config.overrides import compose
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.dataset import ImageData
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.models.tta import Views, logits_in_time, view_sets, views_of


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network that tells left from right and up from down."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 7 * 10, 4))
    return nn.Sequential(*layers).double().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(9, 2, 7, 10)))


def by_loop(network, image: torch.Tensor, flip: bool, shift: int, neighbors: bool = False) -> torch.Tensor:
    """Logits: half of the centre's and a quarter each of two diagonal neighbors', or the mean over the centre and all
    neighbors; each is a mean over the view and the flipped view."""

    def logits(pixels: np.ndarray) -> torch.Tensor:
        sides = (pixels, pixels[:, :, ::-1])[: 1 + flip]
        return sum(network(torch.from_numpy(side.copy())[None])[0] for side in sides) / len(sides)

    pixels = image.numpy()
    if not shift:
        return logits(pixels)
    height, width = pixels.shape[1:]
    padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
    if neighbors:
        windows = [padded[:, down : down + height, right : right + width]
                   for down in range(0, 2 * shift + 1, shift) for right in range(0, 2 * shift + 1, shift)]  # fmt: skip
        return sum(logits(window) for window in windows) / 9
    first, last = padded[:, :height, :width], padded[:, -height:, -width:]
    return 0.5 * logits(pixels) + 0.25 * logits(first) + 0.25 * logits(last)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("neighbors", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_logits_are_those_of_a_loop(network, images, flip, shift, neighbors):
    views = Views(flip, shift, neighbors)
    with torch.no_grad():
        plain, augmented = views.logits(network, images)
        expected = torch.stack([by_loop(network, image, flip, shift, neighbors) for image in images])
    torch.testing.assert_close(plain, network(images))
    torch.testing.assert_close(augmented.double(), expected, rtol=1e-5, atol=1e-5)
    assert (views.count == 1) == torch.allclose(plain, augmented.double(), atol=1e-6)


def test_an_image_is_scored_once_per_view(network, images):
    few = (Views(), Views(flip=True), Views(shift=1), Views(flip=True, shift=3))
    for views in (*few, Views(shift=1, neighbors=True), Views(flip=True, shift=2, neighbors=True)):
        calls = []
        views.logits(lambda some, calls=calls: calls.append(len(some)) or network(some), images)
        assert calls == [len(images)] * views.count
        assert sum(weight for weight, _ in views.of(images)) == pytest.approx(1)


def test_only_uncertain_images_get_views(network, images):
    with torch.no_grad():
        plain, all_views = Views(True, 1).logits(network, images)
        sure = plain.softmax(1).amax(1)
        below = sure.sort().values[4].item()  # so that four images are below
        _, augmented = Views(True, 1, confidence_threshold=below).logits(network, images)
        _, none = Views(True, 1, confidence_threshold=1e-9).logits(network, images)
    uncertain = sure < below
    assert uncertain.sum() == 4
    torch.testing.assert_close(augmented[uncertain], all_views[uncertain])
    torch.testing.assert_close(augmented[~uncertain], plain[~uncertain].float())
    torch.testing.assert_close(none, plain.float())
    calls: list[int] = []
    Views(True, 1, confidence_threshold=below).logits(lambda some: calls.append(len(some)) or network(some), images)
    assert sum(calls) / len(images) == pytest.approx(Views(True, 1, confidence_threshold=below).scored(4 / 9))


def in_time(network, images, sets, limit, monkeypatch):
    """Score `images` alone in three batches, then in further views; an image takes 0.1 s a view by a simulated clock.

    Returns the logits, the numbers of views and the seconds that it took.
    """
    now = 0.0

    def score(some):
        nonlocal now
        now += 0.1 * len(some)
        return network(some)

    monkeypatch.setattr("fastconv.models.tta.time.perf_counter", lambda: now)
    reserve = ScoringReserve(pacing=Pacing(reserve_factor=1.2, least_portion=1, portion_seconds=0.1))
    reserve.start_scoring(len(images), lambda: limit - now)
    plain = []
    with torch.no_grad():
        for batch in images.chunk(3):
            started = now
            plain.append(score(batch))
            reserve.scored(len(batch), now - started)
        return *logits_in_time(score, lambda rows: images[rows], torch.cat(plain), sets, reserve, 500), now


@pytest.mark.parametrize("limit", [0.5, 1.0, 1.6, 2.3, 4.0, 8.0, 20.0])
def test_views_are_scored_until_the_time_is_over_for_the_least_certain_images_first(
    network, images, monkeypatch, limit
):
    with torch.no_grad():
        plain = network(images)
    sure = plain.softmax(1).amax(1)
    below = sure.sort().values[5].item()  # so that five images are below
    sets = [Views(flip=True, confidence_threshold=below), Views(True, 1, confidence_threshold=below)]
    found, counts, seconds = in_time(network, images, sets, limit, monkeypatch)
    with torch.no_grad():
        wholly = [dataclasses.replace(views, confidence_threshold=1.0) for views in sets]
        logits = {1: plain, **{views.count: views.logits(network, images)[1] for views in wholly}}
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(found[row], logits[count][row].float())
    assert seconds == pytest.approx(0.1 * len(images) + 0.1 * sum(0 if c == 1 else 1 if c == 2 else 6 for c in counts))
    assert seconds <= max(limit, 0.1 * len(images)) + 1e-9, "every image is scored once in any case"
    order = counts[sure.argsort()].tolist()
    assert order[:5] == sorted(order[:5], reverse=True)
    assert order[5:] == sorted(order[5:], reverse=True)
    assert set(order[5:]) == {1} or set(order[:5]) == {6}, "uncertain images come first"
    assert limit < 20 or set(order) == {6}
    assert limit > 1 or set(order) == {1}
    # What is left does not do for another portion: an image in as many views as come next.
    assert set(order) == {6} or limit - seconds < 1.2 * 0.1 * 5 + 1e-6


def test_without_larger_sets_images_that_are_certain_stay_as_they_are(network, images, monkeypatch):
    with torch.no_grad():
        below = network(images).softmax(1).amax(1).median().item()
    views = Views(True, 1, confidence_threshold=below)
    found, counts, _ = in_time(network, images, [views], 1e9, monkeypatch)
    with torch.no_grad():
        plain, expected = views.logits(network, images)
    torch.testing.assert_close(found, expected.float())
    assert torch.equal(counts == 6, plain.softmax(1).amax(1) < below)
    found, counts, _ = in_time(network, images, [], 1e9, monkeypatch)
    torch.testing.assert_close(found, plain.float())
    assert set(counts.tolist()) == {1}


@pytest.mark.parametrize(
    ("given", "mirrors", "counts"),
    [
        (("tta.flip=true", "tta.shift=0"), True, [2]),
        (("tta.flip=false", "tta.shift=0"), True, []),
        (("tta.flip=false", "tta.shift=0", "tta.extend=neighbors"), True, [2, 6, 18]),
        (("tta.flip=false", "tta.shift=0", "tta.extend=diagonal"), False, [3]),
        (("tta.flip=true", "tta.shift=0", "tta.extend=diagonal"), True, [2, 6]),
        (("tta.flip=true", "tta.shift=1", "tta.extend=neighbors"), True, [6, 18]),
        (("tta.neighbors=true", "tta.extend=neighbors"), False, [9]),
    ],
)
def test_sets_of_views_become_larger(given, mirrors, counts):
    config = OmegaConf.to_object(compose("train", ["dataset=digits", *given]))
    assert [views.count for views in view_sets(config.tta, mirrors)] == counts


SHORT = ("model.width=4", "batch_size=64", "trainer=cpu", "trainer.precision=fp32", "budget.seconds=null",
         "schedule.max_epochs=0.5", "checkpoint.save=false")  # fmt: skip


def test_a_run_reports_both_accuracies(command, tmp_path):
    holdout = ("dataset.holdout=0.2", "validate.on=holdout")
    assert command("train", *SHORT, *holdout, "tta.flip=true", "tta.shift=2").code == 0
    results = json.loads((only_run(tmp_path / "outputs") / "results.json").read_text())
    for plain, augmented in (("accuracy", "accuracy_tta"), ("accuracy_holdout", "accuracy_holdout_tta")):
        assert 0 < results[augmented] < 1
        assert results[augmented] != results[plain], "flipped digits are other digits"


def test_without_views_both_are_the_same(command, tmp_path):
    assert command("train", *SHORT, "tta.shift=0", "validate.on=none").code == 0
    results = json.loads((only_run(tmp_path / "outputs") / "results.json").read_text())
    assert results["accuracy_tta"] == results["accuracy"], "the digits are not flipped by default"
    assert results["accuracy_holdout_tta"] is None


def test_a_run_without_time_for_views_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setattr(ScoringReserve, "allows", lambda self, images, views: 0)
    counts = "budget.counts=[train,validate,test]"
    given = [each for each in SHORT if not each.startswith("budget")]
    ended = command("train", *given, "budget.seconds=60", counts, "tta.flip=true")
    assert ended.code == 0, ended.err
    assert "no time on 359 of them" in " ".join(ended.out.replace("│", " ").split())
    results = json.loads((only_run(tmp_path / "outputs") / "results.json").read_text())
    assert (results["tta_skipped"], results["accuracy_tta"]) == (359, results["accuracy"])
    assert results["tta_views"] == {"1": 359}


@pytest.mark.parametrize(
    ("given", "flips"),
    [
        (("augment=none", "dataset.flip=0.5"), False),
        (("augment=crop", "dataset.flip=0.5"), False),
        (("augment=cutout", "augment.auto=rand_augment", "dataset.flip=0.5"), False),
        (("augment=standard", "dataset.flip=0.5"), True),
        (("augment=standard", "dataset.flip=0"), False),
        (("augment=airbench", "dataset.flip=0.5"), True),
        (("augment=none", "augment.flip.probability=0.2", "dataset.flip=0"), True),
        (("augment=none", "tta.flip=true"), True),
        (("augment=standard", "dataset.flip=0.5", "tta.flip=false"), False),
    ],
)
def test_views_are_flipped_if_the_training_images_are(given, flips):
    """By the images of the stream themselves: asymmetric ones, which come in one direction or in both."""
    config = OmegaConf.to_object(compose("train", ["dataset=digits", *given]))
    assert views_of(config.tta, config.augment.mirrors).flip == flips
    if config.tta.flip is None and config.augment.auto == "none":
        image = np.zeros((1, 12, 12, 1), np.uint8)
        image[:, :, :6] = 200
        data = ImageData("arrows", image.repeat(40, 0), np.arange(40) % 2, ("a", "b"), "")
        alone = dataclasses.replace(config.augment, crop=Crop(), cutout=Cutout())
        stream = OnlineStream(stream_spec(data, alone, 0), data)
        seen = stream.rows(0, 80)[0].astype(int)
        assert bool((seen[:, :, 8:].sum((1, 2, 3)) > seen[:, :, :4].sum((1, 2, 3))).any()) == flips


def test_a_transform_of_ones_own_says_whether_it_mirrors(tmp_path, monkeypatch):
    (tmp_path / "mirroring.py").write_text(
        "class Mirror:\n"
        "    mirrors = True\n"
        "    def draw(self, draws):\n"
        "        return draws.chances(0.5)\n"
        "    def apply(self, images, drawn, fill):\n"
        "        images[drawn] = images[drawn, :, ::-1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert Policy(extra=[{"_target_": "mirroring.Mirror"}]).mirrors
    assert not Policy().mirrors


def test_arrows_are_told_apart_in_all_views(command, tmp_path):
    """The bright half is on the left or on the right: without flips in training, a flipped view would be an error."""
    generator = np.random.default_rng(0)
    for side, name in enumerate(("left", "right")):
        (tmp_path / "arrows" / name).mkdir(parents=True)
        for at in range(40):
            image = generator.integers(0, 60, (8, 8), np.uint8)
            image[:, 4 * side : 4 * side + 4] += 150
            Image.fromarray(image).save(tmp_path / "arrows" / name / f"{at}.png")
    given = ("dataset=image_folder", "dataset.root=arrows", "dataset.image_size=8", "augment=none", "model=airbench",
             "model.widths=[4,8,8]", "batch_size=16", "micro_batch_size=16", "budget.seconds=null",
             "schedule.max_epochs=8", "stream=online", "validate.on=none")  # fmt: skip
    ended = command("train", *given)
    assert ended.code == 0, ended.err
    run = only_run(tmp_path / "outputs")
    results = json.loads((run / "results.json").read_text())
    assert results["accuracy"] > 0.9
    assert results["accuracy_tta"] > 0.9
    ended = command("evaluate", f"run={run}", "tta=true")
    assert ended.code == 0, ended.err
    assert json.loads((run / "evaluation.json").read_text())["accuracy"] > 0.9
