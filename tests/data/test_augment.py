"""Plans and augmentation against plain loops over images and pixels."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from harness import STANDARD, noise, spec_of
from PIL import Image
from torchvision.transforms import v2

from fastconv.data.augment.plan import EpochPlan, Step, augment, plan_epoch
from fastconv.data.augment.policy import Policy
from fastconv.data.augment.transform import PURPOSES, below, draw_words, purpose_of
from fastconv.data.augment.transforms import color_jitter as jitter
from fastconv.data.augment.transforms.auto_augment import AutoAugment
from fastconv.data.augment.transforms.color_jitter import ColorJitter
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.runs.hparams import is_augmented

FILL = np.array([9, 90, 200], np.uint8)


def reference(image: np.ndarray, policy: Policy, plan: EpochPlan, position: int, fill: np.ndarray) -> np.ndarray:
    """One augmented image, pixel by pixel, from the definition."""
    height, width, channels = image.shape
    padding, mode, size = policy.crop.padding, policy.crop.mode, policy.cutout.size
    drawn = {step.name: step.drawn[position] for step in plan.steps}
    crop_y, crop_x = drawn.get("crop", (0, 0))
    cutout_y, cutout_x = drawn.get("cutout", (0, 0))
    result = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            # The pixel of the cropped image that a flip shows here, then its place in the source.
            shown = width - 1 - x if drawn.get("flip", False) else x
            source_y = y + crop_y - padding
            source_x = shown + crop_x - padding
            if mode == "reflect":
                source_y = height - 1 - abs(height - 1 - abs(source_y))
                source_x = width - 1 - abs(width - 1 - abs(source_x))
            inside = 0 <= source_y < height and 0 <= source_x < width
            for channel in range(channels):
                result[y, x, channel] = image[source_y, source_x, channel] if inside else fill[channel]
            covered_y = cutout_y <= y < cutout_y + size
            covered_x = cutout_x <= x < cutout_x + size
            if covered_y and covered_x:
                result[y, x] = fill
    return result


def check(images: np.ndarray, policy: Policy, plan: EpochPlan) -> None:
    fill = FILL[: images.shape[3]]
    before = images.copy()
    result = augment(images, plan, 0, len(plan.order), fill)
    for position, row in enumerate(plan.order):
        expected = reference(images[row], policy, plan, position, fill)
        np.testing.assert_array_equal(result[position], expected, f"at {position}")
    np.testing.assert_array_equal(images, before, "the source images must stay as they are")


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(crop=Crop(4)),
        Policy(crop=Crop(9)),
        Policy(crop=Crop(3, "reflect")),
        Policy(crop=Crop(8, "reflect"), flip=Flip(0.5)),
        Policy(flip=Flip(0.5)),
        Policy(flip=Flip(1.0)),
        Policy(cutout=Cutout(1)),
        Policy(cutout=Cutout(9)),
        STANDARD,
    ],
    ids=str,
)
def test_equals_a_loop_over_pixels(images, policy):
    check(images.images, policy, plan_epoch(7, 2, len(images), 9, 11, policy))


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_every_border_crop_and_cutout_edge(images, mode):
    """All windows at the rim and cutouts in all corners, flipped and not: not left to the luck of the draw."""
    policy = Policy(Crop(2, mode), Flip(0.5), Cutout(4))
    rim = [(y, x, f, cy, cx) for y in (0, 2, 4) for x in (0, 2, 4) for f in (0, 1) for cy in (0, 5) for cx in (0, 7)]
    crop_y, crop_x, flip, cutout_y, cutout_x = np.array(rim).T
    order = np.arange(len(rim)) % len(images)
    steps = (
        Step("crop", policy.crop, np.stack([crop_y, crop_x], axis=1)),
        Step("flip", policy.flip, flip.astype(bool)),
        Step("cutout", policy.cutout, np.stack([cutout_y, cutout_x], axis=1)),
    )
    check(images.images, policy, EpochPlan(order, steps))


def test_a_part_of_an_epoch_is_that_part(images):
    plan = plan_epoch(1, 0, len(images), 9, 11, STANDARD)
    fill = FILL[: images.images.shape[3]]
    whole = augment(images.images, plan, 0, 57, fill)
    parts = [augment(images.images, plan, *part, fill) for part in ((0, 1), (1, 40), (40, 57))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_plan_is_a_permutation_within_bounds():
    plan = plan_epoch(0, 0, 5000, 28, 20, Policy(Crop(4), Flip(0.5), Cutout(8)))
    assert sorted(plan.order) == list(range(5000))
    (crop_y, crop_x), (cutout_y, cutout_x) = plan.drawn("crop").T, plan.drawn("cutout").T
    for drawn, highest in ((crop_y, 8), (crop_x, 8), (cutout_y, 20), (cutout_x, 12)):
        assert (drawn.min(), drawn.max()) == (0, highest)
        expected = len(drawn) / (highest + 1)
        deviation = (np.bincount(drawn) - expected) / np.sqrt(expected)
        assert np.abs(deviation).max() < 5, "places are drawn evenly"
    assert abs(plan.drawn("flip").mean() - 0.5) < 5 * 0.5 / np.sqrt(5000)


def test_flip_chance_is_exact_at_its_ends():
    assert plan_epoch(0, 0, 1000, 8, 8, Policy(flip=Flip(0.0))).steps == ()
    assert plan_epoch(0, 0, 1000, 8, 8, Policy(flip=Flip(1.0))).drawn("flip").all()


def test_seeds_epochs_and_draws_are_independent():
    first = plan_epoch(0, 0, 2000, 8, 8, STANDARD)
    for other in (plan_epoch(1, 0, 2000, 8, 8, STANDARD), plan_epoch(0, 1, 2000, 8, 8, STANDARD)):
        assert (other.order != first.order).mean() > 0.99
        assert abs(np.corrcoef(other.drawn("crop")[:, 0], first.drawn("crop")[:, 0])[0, 1]) < 0.1
    crop, cutout = first.drawn("crop"), first.drawn("cutout")
    assert abs(np.corrcoef(crop[:, 0], crop[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(first.drawn("flip"), cutout[:, 1])[0, 1]) < 0.1


def test_one_draw_does_not_move_the_others():
    """Switching a part of the policy on leaves the other parts' draws as they were."""
    with_cutout = plan_epoch(5, 1, 100, 8, 8, STANDARD)
    without = plan_epoch(5, 1, 100, 8, 8, Policy(STANDARD.crop, STANDARD.flip))
    everything = dataclasses.replace(STANDARD, color_jitter=ColorJitter(0.1, 0.1), auto="trivial_augment")
    with_more = plan_epoch(5, 1, 100, 8, 8, everything)
    for other, names in ((without, ("crop", "flip")), (with_more, ("crop", "flip", "cutout"))):
        np.testing.assert_array_equal(with_cutout.order, other.order)
        for name in names:
            np.testing.assert_array_equal(with_cutout.drawn(name), other.drawn(name))


# -- alternating flips


def flips(epoch, **settings):
    """Whether each image is mirrored in an epoch, by its number."""
    plan = plan_epoch(3, epoch, 500, 8, 8, Policy(flip=Flip(**settings)))
    return plan.drawn("flip")[np.argsort(plan.order)]


def test_alternating_flips_show_each_image_both_ways_by_turns():
    late = flips(3, probability=0.5, mode="alternating")  # before the epochs that come before it
    first, second, third, fourth = (flips(epoch, probability=0.5, mode="alternating") for epoch in range(4))
    np.testing.assert_array_equal(first, flips(0, probability=0.5))
    assert 0.4 < first.mean() < 0.6
    for epoch in (second, fourth, late):
        np.testing.assert_array_equal(epoch, ~first)
    np.testing.assert_array_equal(third, first)


def test_what_must_not_be_mirrored_is_mirrored_in_no_epoch():
    policy = Policy(flip=Flip(0.0, "alternating"))
    assert not any(plan_epoch(3, epoch, 500, 8, 8, policy).steps for epoch in range(4))


# -- colour


@pytest.mark.parametrize(("brightness", "contrast"), [(0.14, 0.13), (0.2, 0.0), (0.0, 0.3), (1.0, 1.0)])
def test_colour_is_its_formula(images, monkeypatch, brightness, contrast):
    """In exact numbers: within half a level, which is rounding, and a hundredth, which is the fixed point."""
    monkeypatch.setattr(jitter, "COLOUR_PIXELS", 1000)  # several parts, one of them smaller
    plan = plan_epoch(
        7, 2, 57, 9, 11, Policy(Crop(2, "reflect"), Flip(0.5), color_jitter=ColorJitter(brightness, contrast))
    )
    plain = EpochPlan(plan.order, tuple(step for step in plan.steps if step.name != "color_jitter"))
    drawn_brightness, drawn_contrast = plan.drawn("color_jitter").T
    fill = FILL[: images.images.shape[3]]
    before, after = (augment(images.images, each, 0, 57, fill) for each in (plain, plan))
    for position in range(57):
        b, c = drawn_brightness[position] / 256 / 255, drawn_contrast[position] / 65536
        assert abs(b) <= brightness + 1e-5
        assert abs(c) <= contrast + 1e-5
        pixels = before[position].astype(np.float64) / 255
        expected = np.clip(pixels.mean() + (pixels - pixels.mean()) * (1 + c) + b, 0, 1)
        assert np.abs(after[position] - expected * 255).max() < 0.51
    for drawn in (drawn_brightness / 256 / 255, drawn_contrast / 65536):
        limit = max(drawn.max(), -drawn.min())
        assert limit == 0 or (drawn.min() < -0.8 * limit and drawn.max() > 0.8 * limit and len(set(drawn)) > 50)
    assert (drawn_brightness.any(), drawn_contrast.any()) == (brightness > 0, contrast > 0)


def test_the_cutout_keeps_the_mean_colour():
    policy = Policy(cutout=Cutout(3), color_jitter=ColorJitter(1.0, 0.0), auto="trivial_augment")
    plan = plan_epoch(0, 0, 57, 9, 11, policy)
    result = augment(noise(57, 3).images, plan, 0, 57, FILL)
    for image, (y, x) in zip(result, plan.drawn("cutout"), strict=True):
        np.testing.assert_array_equal(image[y : y + 3, x : x + 3], np.broadcast_to(FILL, (3, 3, 3)))


# -- torchvision's policies


TRANSFORMS = {
    "rand_augment": lambda fill: v2.RandAugment(num_ops=3, magnitude=20, fill=fill),
    "trivial_augment": lambda fill: v2.TrivialAugmentWide(fill=fill),
    "augmix": lambda fill: v2.AugMix(fill=fill),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_policy_is_torchvisions_with_a_seed_for_each_image(images, name):
    policy, fill = Policy(auto=name, num_ops=3, magnitude=20), FILL[: images.images.shape[3]]
    seeds = plan_epoch(2, 0, 57, 9, 11, policy).drawn("auto")[:20]
    before, state = images.images[:20], torch.get_rng_state()
    result = before.copy()
    AutoAugment(name, 3, 20).apply(result, seeds, fill)
    assert torch.equal(torch.get_rng_state(), state), "somebody else may be drawing from it"
    with torch.random.fork_rng(devices=[]):
        for image, seed, made in zip(before, seeds, result, strict=True):
            torch.manual_seed(int(seed))
            expected = TRANSFORMS[name](fill.tolist())(Image.fromarray(image.squeeze()))
            np.testing.assert_array_equal(made.squeeze(), np.asarray(expected))
    assert (result != before).any(axis=(1, 2, 3)).mean() > 0.5


def test_policies_differ_by_image_and_epoch():
    policy = Policy(auto="trivial_augment")
    plans = [plan_epoch(2, epoch, 1000, 9, 11, policy) for epoch in (0, 1)]
    by_image = [plan.drawn("auto")[np.argsort(plan.order)] for plan in plans]
    assert len(np.unique(by_image)) == 2000
    image = np.repeat(noise(1, 3).images, 40, axis=0)
    AutoAugment("trivial_augment", 2, 9).apply(image, plans[0].drawn("auto")[:40], FILL)
    assert len({each.tobytes() for each in image}) > 15


def test_without_a_policy_torch_stays_away():
    code = (
        "import sys, numpy; from fastconv.data.augment.plan import *;"
        "from fastconv.data.augment.policy import *;"
        "policy = Policy(Crop(2), Flip(0.5, 'alternating'), Cutout(3), ColorJitter(0.1, 0.1));"
        "plan = plan_epoch(0, 0, 5, 9, 9, policy);"
        "augment(numpy.zeros((5, 9, 9, 3), 'uint8'), plan, 0, 5, numpy.zeros(3, 'uint8'));"
        "assert not {'torch', 'torchvision', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("key", ["crop.padding", "flip.probability", "cutout.size", "color_jitter.brightness",
                                 "color_jitter.contrast", "auto", "extra", "solarize.probability"])  # fmt: skip
def test_whatever_changes_images_is_augmentation(key):
    plain = {"augment.crop.padding": 0, "augment.flip.mode": "alternating", "augment.auto": "none"}
    assert not is_augmented(plain)
    assert not is_augmented({})
    assert is_augmented({**plain, f"augment.{key}": {"auto": "augmix", "extra": [{}]}.get(key, 0.5)})


# -- words


def philox(key: list[int], counter: list[int], rounds: int = 10) -> list[int]:
    """One block of Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    mask, (k0, k1), (c0, c1, c2, c3) = 2**64 - 1, key, counter
    for _ in range(rounds):
        left, right = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (right >> 64) ^ c1 ^ k0, right & mask, (left >> 64) ^ c3 ^ k1, left & mask
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & mask, k1 + 0xBB67AE8584CAA73B & mask
    return [c0, c1, c2, c3]


def test_words_are_philox():
    """The stream's bytes rest on these words, so every numpy must give the same."""
    for seed, epoch in ((0, 0), (11, 4), (2**63 - 1, 1000)):
        words = draw_words(seed, epoch, PURPOSES["crop.x"], 8).tolist()
        # numpy counts up before it makes a block.
        assert words == philox([seed, epoch], [1, 0, 0, 2]) + philox([seed, epoch], [2, 0, 0, 2])


def test_draws_of_other_names_have_their_own_part_of_the_counter_space():
    assert [purpose_of(name) for name in PURPOSES] == list(range(9))
    others = {purpose_of(name) for name in ("mypkg.Invert", "mypkg.Invert#2", "solarize.threshold")}
    assert len(others) == 3
    assert all(2**63 <= purpose < 2**64 for purpose in others)
    assert len(draw_words(0, 0, max(others), 4)) == 4


def test_words_become_integers_below_a_bound():
    words = np.array([0, 2**32 - 1, 2**63, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(below(words, 10), [0, 0, 5, 9])


def test_fill_is_the_mean_colour():
    assert spec_of(noise(5, 3)).fill.tolist() == [51, 128, 204]
