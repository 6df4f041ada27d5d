"""Chooses network, batch size, augmentation and scoring for a budget on this machine, and says why.

`fastconv.budget.autotune.candidates` picks the network; the rest follows from what it can do in the budget.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

from fastconv.budget.autotune.candidate import Candidate
from fastconv.budget.autotune.candidates import Candidates
from fastconv.budget.autotune.chosen_settings import settings_of
from fastconv.budget.autotune.flip_test import FlipAccuracy, flip_test
from fastconv.budget.autotune.pretrained import consider
from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.autotune.speed import SpeedProfiles
from fastconv.budget.benchmark import SpeedProfile, benchmark
from fastconv.budget.bounds import operations_per_second
from fastconv.budget.clock import Clock
from fastconv.budget.compiled import compiled_file, compiling_pays
from fastconv.budget.forecast import scored_images
from fastconv.budget.hardware import Device, prepare_in_time
from fastconv.config.prerequisites import require_batch
from fastconv.config.quoting import key_of
from fastconv.config.schema import CHOICES, Config
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits
from fastconv.system.distributed import from_first_rank


@dataclass(frozen=True)
class Choice:
    """A config in which nothing is open.

    Args:
        config: the config.
        speed: the measured or estimated speed profile of its network and batch size; None if nothing was chosen.
        reasons: why each thing was chosen, by the keys of `CHOICES`.
    """

    config: Config
    speed: SpeedProfile | None
    reasons: dict[str, str]
    threads: int | None = None
    """The number of CPU threads that was measured; None if nothing was chosen."""


def autotune(config: Config, data: Splits, overrides: list[str], clock: Clock, settings: Autotune = AUTOTUNE) -> Choice:
    """Measure this machine and the images, and choose what `config.autotune` names and the command line leaves open.

    The same measurements, which are kept beside the data sets, always give the same choice.

    Args:
        config: a validated config, whose `budget.seconds` is not None.
        data: the images of the run.
        overrides: the command line's, which settle what they set.
        clock: its segment `benchmark` counts the time that this takes.

    Raises InputError for hardware that is not there, and for a batch size that is set and exceeds the images.
    """
    open_choices = left_open(config, overrides)
    if "batch_size" not in open_choices:
        require_batch(config, len(data.train))
    if not open_choices:
        return Choice(config, None, {})
    with clock.segment("benchmark"):
        device = prepare_in_time(config)
    threads, budget = device.threads, budget_seconds(config)
    may_compile = config.trainer.compile is None and device.compile
    device = dataclasses.replace(device, compile=False)  # compiling each network would take longer than a benchmark
    train, cache = data.train, config.benchmarks_folder
    scored = scored_images(config, len(data.holdout), len(data.test))
    measure = functools.partial(benchmark, extra_seconds=settings.confirm_share * budget)
    profiles = SpeedProfiles(config, device, train, cache, measure, settings)

    def flips(seconds: float) -> FlipAccuracy | None:
        return flip_test(train, profiles, device, cache, seconds, settings)

    with clock.segment("benchmark"):
        found = consider(config, open_choices, overrides, data, device, cache, flips, settings)
        reasons = {"pretrained": found.reason} if found.reason else {}
        if found.config is not None:
            return Choice(found.config, None, reasons, threads)
        operations = None
        if device.kind == "cuda":
            operations = from_first_rank("product", lambda: operations_per_second(device, cache))
        choice = choose(
            config, open_choices, device.kind, train, scored, profiles, flips, settings, found.seconds, operations
        )
    if may_compile:
        choice = dataclasses.replace(choice, config=_compiled_where_it_pays(choice.config, train, device, settings))
    return dataclasses.replace(choice, reasons={**reasons, **choice.reasons}, threads=threads)


def _compiled_where_it_pays(config: Config, train: ImageData, device: Device, settings: Autotune) -> Config:
    """The config, with trainer.compile=false where compiling its step takes longer than it saves."""
    path = compiled_file(config, train.images.shape[1:], len(train.classes), device)
    if from_first_rank("compiling", lambda: compiling_pays(config, path, settings)):
        return config
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, compile=False))


def left_open(config: Config, overrides: list[str]) -> list[str]:
    """The keys of `CHOICES` that `config.autotune` names and no override of the command line settles."""
    names = [f"{key_of(override)}." for override in overrides]
    settled = {
        choice for choice, keys in CHOICES.items() if any(name.startswith(f"{key}.") for key in keys for name in names)
    }
    return [choice for choice in config.autotune if choice not in settled]


def budget_seconds(config: Config) -> float:
    """The budget in seconds. Raises ValueError without one, which validation refuses for a config with open choices."""
    if config.budget.seconds is None:
        raise ValueError("autotune needs budget.seconds")
    return config.budget.seconds


def for_seconds_left(config: Config, clock: Clock, is_repeated: bool, settings: Autotune = AUTOTUNE) -> Config:
    """The config to choose for, the same on all ranks: with the seconds that are left of its budget, where starting has
    taken much of them (`Autotune.startup_share`).

    Args:
        config: a config whose `budget.seconds` is not None.
        clock: counts the seconds so far.
        is_repeated: whether other processes make the same choice: then it does not depend on how long they take to
            start.
    """
    budget = budget_seconds(config)
    spent = from_first_rank("spent", lambda: 0.0 if is_repeated else clock.counted(tuple(config.budget.counts)))
    if not settings.startup_share * budget < spent < budget:  # one that is over is refused later
        return config
    return dataclasses.replace(config, budget=dataclasses.replace(config.budget, seconds=budget - spent))


def choose(
    config: Config,
    open_choices: list[str],
    device: str,
    train: ImageData,
    scored: int,
    profiles: SpeedProfiles,
    flips: Callable[[float], FlipAccuracy | None],
    settings: Autotune = AUTOTUNE,
    spent: float = 0.0,
    operations: float | None = None,
) -> Choice:
    """Choose what is open, by measurements.

    Args:
        open_choices: of the keys of `CHOICES`.
        device: `cpu`, `cuda` or `mps`.
        train: the training images.
        scored: number of images that are scored after training.
        profiles: measures networks.
        flips: runs the flip-invariance test in the seconds given, or returns None if they are too short.
        spent: seconds that a trial of a pretrained network had.
        operations: floating-point operations per second of a matrix product; only on a GPU.
    """
    budget = budget_seconds(config)
    test_seconds = settings.flip_test_share * budget
    accuracy = flips(test_seconds) if "flip" in open_choices else None
    flip, reasons = _flip(config, open_choices, accuracy, settings)
    if accuracy and not accuracy.is_evident(settings):
        accuracy = None
    benchmark_share = settings.benchmark_share
    if "flip" not in open_choices or test_seconds < settings.flip_test_min_seconds:
        benchmark_share += settings.flip_test_share  # without a test, its time is for benchmarks
    candidates = Candidates(
        config,
        open_choices,
        train,
        scored,
        profiles,
        budget_seconds=budget,
        benchmark_seconds=benchmark_share * budget,
        seconds=(1 - settings.benchmark_share - settings.flip_test_share) * budget - spent,
        flip=flip,
        other_look=accuracy is not None and accuracy.other_look(settings),
        may_resize=device == "cpu",
        operations_per_second=operations,
        settings=settings,
    )
    best = candidates.best()
    if candidates.reason:
        reasons["model"] = candidates.reason
    if accuracy:
        reasons["flip"] = _flip_reason(best, accuracy, settings)
    tuned, more = settings_of(best, candidates, config, open_choices, device, train, settings)
    return Choice(tuned, dataclasses.replace(best.speed, step_seconds=best.step_seconds), reasons | more)


def _flip(
    config: Config, open_choices: list[str], accuracy: FlipAccuracy | None, settings: Autotune
) -> tuple[float, dict[str, str]]:
    """The share of images to flip, and the reason for it if the test does not settle it."""
    flip = config.dataset.flip if "augment" in open_choices else config.augment.flip.probability
    if "flip" not in open_choices:
        return flip, {}
    if accuracy is None:
        return flip, {"flip": f"dataset.flip={flip:g} stays, as the budget is too short for a flip-invariance test"}
    if accuracy.is_evident(settings):
        return 0.5 if accuracy.same_class(settings) else 0.0, {}
    return flip, {
        "flip": f"dataset.flip={flip:g} stays, as {accuracy.plain:.1%} of {accuracy.images:,} images right, and"
        f" {accuracy.flipped:.1%} of them flipped, are too few to tell a difference"
    }


def _flip_reason(best: Candidate, accuracy: FlipAccuracy, settings: Autotune) -> str:
    """Why the best candidate's images are flipped or not, by an evident result of the flip-invariance test."""
    reason = (
        f"{'yes' if best.flip > 0 else 'no'}, as a proxy network classifies {accuracy.plain:.1%} of held-out images"
        f" correctly, and {accuracy.flipped:.1%} of the same images flipped"
    )
    if not accuracy.other_look(settings):
        return reason
    return f"{reason}, and {'there is time' if best.flip > 0 else 'the time is too short'} to learn both"
