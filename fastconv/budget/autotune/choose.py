"""What `experiment=best` trains in a budget, and why: network, batch size, augmentation, evaluation.

Which network it is, `fastconv.budget.autotune.candidates` says; the rest follows from what it can do in the budget.
"""

import contextlib
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fastconv.budget.autotune.candidates import Candidate, Candidates, moved_by
from fastconv.budget.autotune.data_pruning import PROXY
from fastconv.budget.autotune.flip_test import BATCH_SIZE, HELD, flip_accuracy
from fastconv.budget.autotune.scaling_law import LARGE, MODEL_SIZES, STRONG_EPOCHS
from fastconv.budget.autotune.speed import SpeedProfiles, network_name
from fastconv.budget.benchmark import SpeedProfile
from fastconv.budget.clock import Clock
from fastconv.budget.hardware import Device, prepare
from fastconv.config.schema import Config
from fastconv.data.augment.plan import Crop, Cutout, Flip, Policy
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits
from fastconv.system.distributed import from_first_rank
from fastconv.system.files import write_atomically

# The keys of the command line that settle each choice.
SETTLED_BY = {
    "model": ("model",),
    "epochs": ("schedule.max_epochs",),
    "batch_size": ("batch_size", "micro_batch_size", "dataset.batch_size", "model.micro_batch_size"),
    "flip": ("dataset.flip",),
    "augment": ("augment",),
    "data_pruning": ("data_pruning",),
    "tta": ("tta",),
}

# Shares of the budget, at most: for looking at the networks, for trying mirrored images.
BENCHMARK, TRIAL = 0.02, 0.02
# Share of the images that rest in each epoch.
PRUNED_SHARE = 0.3
# Looks at each network, of which the fastest counts: a GPU is a run's own.
REPEATS = {"cpu": 2, "cuda": 1}
# Images over which batch norm takes its statistics on a CPU: their activations stay near its caches.
MICRO_BATCH_SIZE = 500
# Seconds of a budget in which compiling the step for a GPU takes longer than it saves.
NOT_COMPILED = 60
# Images to learn from, at most, to know whether mirrored ones are of the same class.
TRIAL_IMAGES = 20_000
# They are if those are known at least so often, compared with images as they are. Known less often, but at least as
# often as the second number says, they are so unlike the others that a run must be long to learn both.
SAME_CLASS, UNLIKE = 0.85, 2 / 3
# Seconds in which that cannot be known.
LEAST_TRIAL = 1.5


@dataclass(frozen=True)
class Choice:
    """A config in which nothing is open, what was measured of it, and why it is as it is, by what was chosen."""

    config: Config
    speed: SpeedProfile | None
    reasons: dict[str, str]


def choose(config: Config, data: Splits, overrides: list[str], clock: Clock) -> Choice:
    """Decide what `config.autotune` names and the command line leaves open.

    The same measurements, which are kept beside the data sets, always give the same choice.

    Args:
        data: the images that it trains on and is scored by.
        overrides: those of the command line: what they set stays.
        clock: its segment `benchmark` counts what this takes.

    Raises InputError for hardware that is not there.
    """
    names = [f"{override.split('=')[0].lstrip('+~')}." for override in overrides]
    settled = {
        what for what, keys in SETTLED_BY.items() if any(name.startswith(f"{key}.") for key in keys for name in names)
    }
    chosen = [what for what in config.autotune if what not in settled]
    if not chosen:
        return Choice(config, None, {})
    device = prepare(config.trainer)
    if config.trainer.compile is None and device.compile and config.budget.seconds < NOT_COMPILED:
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, compile=False))
    counts = config.budget.counts
    scored = len(data.holdout) * ("validate" in counts and config.validate.on == "holdout") + len(data.test) * (
        "test" in counts
    )
    with clock.segment("benchmark"):
        return _Chooser(config, chosen, device, data.train, scored).choice()


class _Chooser:
    """Args: chosen: what to choose. train: the images to learn from. scored: number of those scored in the end."""

    def __init__(self, config: Config, chosen: list[str], device: Device, train: ImageData, scored: int) -> None:
        self._config, self._chosen, self._train, self._scored = config, chosen, train, scored
        # Compiling each network would take longer than looking at it.
        self._device = dataclasses.replace(device, compile=False)
        self._cache = Path(config.data) / "benchmarks"
        self._flip = config.dataset.flip
        self._unlike = False  # whether mirrored images are of the same class, but benchmark different
        self._profiles = SpeedProfiles(config, self._device, train, self._cache)
        self._reasons: dict[str, str] = {}

    def choice(self) -> Choice:
        config, new = self._config, {}
        known = self._try_mirrored() if "flip" in self._chosen else None
        candidates = self._candidates()
        for repeats in range(
            1, REPEATS[self._device.kind] + 1
        ):  # the second some seconds later: it may be quieter then
            best = candidates.best(repeats)
        epochs = candidates.epochs(best)
        if candidates.reason:
            self._reasons["model"] = candidates.reason
        if known:
            self._reasons["flip"] = self._about_mirrored(best, *known)
        if "flip" in self._chosen:
            new["dataset"] = dataclasses.replace(config.dataset, flip=best.flip)
        new["model"] = best.network
        if "augment" in self._chosen:
            new["augment"] = self._policy(best, epochs)
        if "data_pruning" in self._chosen:
            seconds = candidates.pruning_seconds(best)
            new["data_pruning"] = 0.0 if seconds is None else PRUNED_SHARE
            if seconds is not None:
                self._reasons["data_pruning"] = (
                    f"{PRUNED_SHARE:.0%} of the images in each epoch, those that {network_name(PROXY)} knows best, each in"
                    f" every other one; about {seconds:.0f} s to find them"
                )
        if "tta" in self._chosen:
            new["tta"] = best.tta
        if "batch_size" in self._chosen:
            new |= dict(zip(("batch_size", "micro_batch_size"), self._batch(best.batch_size), strict=True))
            self._reasons["batch_size"] = f"{new['batch_size']}, for {best.images / new['batch_size']:,.0f} steps"
        if "epochs" in self._chosen:
            bound = None  # go on until time is up
            if best.images >= candidates.most_images:
                bound = epochs / (1 - new.get("data_pruning", config.data_pruning))  # of the images that do not rest
                more = f"as more of {len(self._train):,} images would bring nothing"
                self._reasons["epochs"] = f"{bound:.0f}, {more}"
            new["schedule"] = dataclasses.replace(config.schedule, max_epochs=bound)
        measured = dataclasses.replace(best.speed, step_seconds=best.step_seconds)
        return Choice(dataclasses.replace(config, **new), measured, self._reasons)

    def _candidates(self) -> Candidates:
        seconds = self._config.budget.seconds
        # Where there is no trial, its time is for repeats.
        benchmark = BENCHMARK if "flip" in self._chosen and self._trial_seconds >= LEAST_TRIAL else BENCHMARK + TRIAL
        return Candidates(
            self._config,
            self._chosen,
            self._train,
            self._scored,
            self._profiles,
            benchmark_seconds=benchmark * seconds,
            seconds=(1 - BENCHMARK - TRIAL) * seconds,
            flip=self._flip,
            unlike=self._unlike,
        )

    def _batch(self, size: int) -> tuple[int, int]:
        """A batch of about that size, and the images of its parts, so that all devices have as many whole parts."""
        devices = self._config.trainer.devices
        each = max(2, size // devices)
        part = each if self._device.kind == "cuda" else min(MICRO_BATCH_SIZE, each)
        return devices * part * (each // part), part

    def _policy(self, best: Candidate, epochs: float) -> Policy:
        strong, side = best.network in LARGE and epochs >= STRONG_EPOCHS, min(self._train.images.shape[1:3])
        padding, cut = moved_by(self._train, 8 if strong else 16), 3 * side // 8 if strong else 0
        words = [f"moved by up to {padding} pixels"]
        words += ["every second epoch mirrored"] * (best.flip > 0)
        words += [f"{cut}x{cut} pixels cut out, as a large network sees them often"] * strong
        self._reasons["augment"] = ", ".join(words)
        flip = Flip(0.5 if best.flip > 0 else 0.0, "alternating")
        return Policy(crop=Crop(padding, "reflect"), flip=flip, cutout=Cutout(cut))

    def _try_mirrored(self) -> list[float] | None:
        """Settle whether to mirror, as far as the images say: how often they are known as they are, and mirrored."""
        known = from_first_rank("mirrored", self._mirrored)
        if known is None:
            self._reasons["flip"] = f"as dataset.flip={self._flip:g} says, as there is no time to try"
        else:
            self._flip = 0.5 if known[1] >= UNLIKE * known[0] else 0.0
            self._unlike = UNLIKE * known[0] <= known[1] < SAME_CLASS * known[0]
        return known

    @property
    def _trial_seconds(self) -> float:
        return TRIAL * self._config.budget.seconds

    def _about_mirrored(self, best: Candidate, plain: float, mirrored: float) -> str:
        words = f"a small network knows {plain:.1%} of held-out images and {mirrored:.1%} of them mirrored"
        answer = f"{'yes' if best.flip > 0 else 'no'}, as {words}"
        if not self._unlike:
            return answer
        return f"{answer}, and {'there is time' if best.flip > 0 else 'time is too short'} to learn both"

    def _mirrored(self) -> list[float] | None:
        """Accuracy on held-out images as they are, and mirrored; None if it is not known and there is no time."""
        path = self._cache / f"mirrored-{hashlib.sha256(self._train.digest.encode()).hexdigest()[:16]}.json"
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text())
        seconds = self._trial_seconds
        if seconds < LEAST_TRIAL:
            return None
        network = MODEL_SIZES[0].network
        measured = self._profiles.at(network)
        candidate = Candidate(network, measured, 0.0, BATCH_SIZE, self._config.tta, flip=0.0)
        affordable = max(0.0, seconds - 2 * HELD * measured.score_seconds) / candidate.step_seconds * BATCH_SIZE
        images = int(min(TRIAL_IMAGES, affordable))
        found = list(flip_accuracy(self._train, network, self._device, images))
        write_atomically(path, json.dumps(found).encode())
        return found
