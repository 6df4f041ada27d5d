"""What a budget affords: network, batch size, augmentation and evaluation of `experiment=best`, and why.

How many images a network would see is measured, by a short look at it on this machine (or, where that would take too
much of the budget, at a smaller one); what it would learn from them is the law of `fastconv.ladder`.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastconv.clock import Clock
from fastconv.config import TTA, Config
from fastconv.data.images import ImageData
from fastconv.data.plan import Crop, Cutout, Flip, Policy
from fastconv.data.storage import write_atomically
from fastconv.device import Device, prepare
from fastconv.ladder import LARGE, RESTING, RESTING_EPOCHS, RUNGS, STRONG_EPOCHS, Rung
from fastconv.looks import BATCH, DISTURBED, GROWTH, Looks, faster, network_name, slower
from fastconv.mirrored import BATCH_SIZE, HELD, mirrored_accuracy
from fastconv.probe import Probe
from fastconv.ranks import from_first_rank
from fastconv.rest import NETWORK as MARKER
from fastconv.rest import lesson
from fastconv.run import open_splits, views
from fastconv.tta import UNCERTAIN

# The keys of the command line that settle each choice.
SETTLED_BY = {
    "model": ("model",),
    "epochs": ("schedule.epochs",),
    "batch_size": ("batch_size", "norm_batch", "dataset.batch_size", "model.norm_batch"),
    "flip": ("dataset.flip",),
    "augment": ("augment",),
    "rest": ("rest",),
    "tta": ("tta",),
}

# Shares of the budget, at most: for looking at the networks, for trying mirrored images.
LOOK, TRIAL = 0.02, 0.02
# And for scoring: the image and its mirror image, which are worth most, views along the diagonal, in all directions.
MIRRORED, DIAGONAL, AROUND = 0.2, 0.1, 0.05
# Share of the mirrored images that rest in each epoch, and of the budget that it may take, at most, to mark them.
REST, MARK = 0.3, 0.06
# More views change nothing for images whose answer is so sure, compared with how sure it can be.
SURE = 0.85
# Looks at each network, of which the fastest counts: a GPU is a run's own.
LOOKS = {"cpu": 2, "cuda": 1}

# Sizes of a batch, and optimizer steps that a run should have of them; else the next smaller one is taken. The
# 1000 steps are a guess: of 400 and fewer, smaller batches are better.
STEPS = {2000: 1000, 1000: 180, 500: 180, 250: 180, 125: 0}
# Images over which batch norm takes its statistics on a CPU: their activations stay near its caches.
NORM_BATCH = 500
# Epochs after which more bring nothing, with as many images as CIFAR-10 has; with fewer, more.
MOST_EPOCHS, AT_IMAGES = 100, 45_000
# Seconds of a budget in which compiling the step for a GPU takes longer than it saves.
NOT_COMPILED = 60
# Images to learn from, at most, to know whether mirrored ones are of the same class.
TRIAL_IMAGES = 20_000
# They are if those are known at least so often, compared with images as they are. Known less often, but at least as
# often as the second number says, they are so unlike the others that a run must be long to learn both: so many epochs.
SAME_CLASS, UNLIKE, UNLIKE_EPOCHS = 0.85, 2 / 3, 8
# What such a run gains by them in log error: nothing after so few epochs, this after twice as many or more (measured on
# Fashion-MNIST after 17; between the two it is a guess).
UNLIKE_GAIN = 0.08
# Seconds in which that cannot be known.
LEAST_TRIAL = 1.5


@dataclass(frozen=True)
class Offer:
    """What a network could do in the budget: see so many images in batches of a size, and be scored in some views.

    `flip`: the share of images that are mirrored.
    """

    network: Any
    probe: Probe
    images: float
    batch_size: int
    tta: TTA
    flip: float

    @property
    def image_seconds(self) -> float:
        """Seconds of forward and backward for an image."""
        return (self.probe.step_seconds - self.probe.update_seconds) / BATCH

    @property
    def step_seconds(self) -> float:
        """Seconds of an optimizer step."""
        return self.image_seconds * self.batch_size + self.probe.update_seconds


@dataclass(frozen=True)
class Choice:
    """A config in which nothing is open, what was measured of it, and why it is as it is, by what was chosen."""

    config: Config
    probe: Probe | None
    reasons: dict[str, str]


def choose(config: Config, overrides: list[str], clock: Clock) -> Choice:
    """Decide what `config.choose` names and the command line leaves open.

    The same measurements, which are kept beside the data sets, always give the same choice.

    Args:
        overrides: those of the command line: what they set stays.
        clock: its segment `probe` counts what this takes.

    Raises InputError as `fastconv.run.plan_run` does.
    """
    names = [f"{override.split('=')[0].lstrip('+~')}." for override in overrides]
    settled = {
        what for what, keys in SETTLED_BY.items() if any(name.startswith(f"{key}.") for key in keys for name in names)
    }
    chosen = [what for what in config.choose if what not in settled]
    if not chosen:
        return Choice(config, None, {})
    device = prepare(config.trainer)
    if config.trainer.compile is None and device.compile and config.budget.seconds < NOT_COMPILED:
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, compile=False))
    train, holdout, test = open_splits(config)
    counts = config.budget.counts
    scored = len(holdout) * ("validate" in counts and config.validate.on == "holdout") + len(test) * ("test" in counts)
    with clock.segment("probe"):
        return _Chooser(config, chosen, device, train, scored).choice()


class _Chooser:
    """Args: chosen: what to choose. train: the images to learn from. scored: number of those scored in the end."""

    def __init__(self, config: Config, chosen: list[str], device: Device, train: ImageData, scored: int) -> None:
        self._config, self._chosen, self._train, self._scored = config, chosen, train, scored
        # Compiling each network would take longer than looking at it.
        self._device = dataclasses.replace(device, compile=False)
        self._cache = Path(config.data) / "probes"
        self._side = min(train.images.shape[1:3])
        self._flip = config.dataset.flip
        self._unlike = False  # whether mirrored images are of the same class, but look different
        self._looks = Looks(config, self._device, train, self._cache)
        self._each = 1  # looks at a network
        self._done: dict[str, int] = {}
        self._spent = 0.0
        self._reasons: dict[str, str] = {}

    def choice(self) -> Choice:
        config, new = self._config, {}
        known = self._try_mirrored() if "flip" in self._chosen else None
        for looks in range(1, LOOKS[self._device.kind] + 1):  # the second some seconds later: it may be quieter then
            self._each = looks
            best = self._best_offer()
        if known:
            self._reasons["flip"] = self._about_mirrored(best, *known)
        if "flip" in self._chosen:
            new["dataset"] = dataclasses.replace(config.dataset, flip=best.flip)
        new["model"] = best.network
        if "augment" in self._chosen:
            new["augment"] = self._policy(best)
        if "rest" in self._chosen:
            new["rest"] = self._rest(best)
        if "tta" in self._chosen:
            new["tta"] = best.tta
        if "batch_size" in self._chosen:
            new |= dict(zip(("batch_size", "norm_batch"), self._batch(best.batch_size), strict=True))
            self._reasons["batch_size"] = f"{new['batch_size']}, for {best.images / new['batch_size']:,.0f} steps"
        if "epochs" in self._chosen:
            new["schedule"] = dataclasses.replace(
                config.schedule, epochs=self._bound(best, new.get("rest", config.rest))
            )
        measured = dataclasses.replace(best.probe, step_seconds=best.step_seconds)
        return Choice(dataclasses.replace(config, **new), measured, self._reasons)

    def _best_offer(self) -> Offer:
        """That of the network of which the law expects most."""
        if "model" not in self._chosen:
            return self._offer(self._config.model, self._looks.at(self._config.model, self._each))
        found: list[tuple[Rung, Offer]] = []
        # Where there is no trial, its time is for looks.
        share = LOOK if "flip" in self._chosen and self._trial_seconds >= LEAST_TRIAL else LOOK + TRIAL
        seconds = share * self._config.budget.seconds
        for below, rung in zip((None, *RUNGS), RUNGS, strict=False):
            guess = most = None
            if below:
                last, more = found[-1][1], rung.operations / below.operations
                guess, most = slower(last.probe, more**GROWTH), slower(last.probe, more * DISTURBED)
            measured = self._look(rung.network, guess, seconds - self._spent) or guess
            found.append((rung, self._offer(rung.network, faster(measured, most) if most else measured)))
            if len(found) > 1 and self._log_error(*found[-1]) > self._log_error(*found[-2]):
                break  # those above it would see even fewer images
        at = min(range(len(found)), key=lambda at: self._log_error(*found[at]))
        best, least = found[at][1], self._log_error(*found[at])
        words = [f"{network_name(best.network)}, {self._epochs(best):.1f} epochs"]
        for rung, other in found[max(0, at - 1) : at] + found[at + 1 : at + 2]:
            more = math.exp(self._log_error(rung, other) - least) - 1
            words.append(
                f"{network_name(other.network)} would see {self._epochs(other):.1f} and err {more:.0%} more often"
            )
        self._reasons["model"] = "; ".join(words)
        return best

    def _look(self, network: Any, guess: Probe | None, seconds: float) -> Probe | None:
        """The fastest of as many looks as wanted and affordable in so many seconds; None if none is.

        Args:
            guess: what is expected of the first one; without it there is time for that.
        """
        name = network_name(network)
        done = self._done.get(name, 0)
        known = self._looks.at(network, done) if done else guess
        new = self._each - done
        while known and new > 0 and new * known.look_seconds > seconds:
            new -= 1
        self._done[name] = done + new
        if not self._done[name]:
            return None
        measured = self._looks.at(network, done + new)
        self._spent += new * measured.look_seconds
        return measured

    def _log_error(self, rung: Rung, offer: Offer) -> float:
        """By the law, and by what mirrored images bring to a network that they make learn more."""
        doublings = math.log2(self._epochs(offer) / UNLIKE_EPOCHS) if self._unlike and offer.flip > 0 else 0.0
        return rung.log_error(offer.images) - UNLIKE_GAIN * min(1.0, doublings)

    def _epochs(self, offer: Offer) -> float:
        return offer.images / len(self._train)

    def _offer(self, network: Any, measured: Probe) -> Offer:
        offer = self._in_time(network, measured, self._flip)
        if self._unlike and self._epochs(offer) < UNLIKE_EPOCHS:
            return self._in_time(network, measured, 0.0)
        return offer

    def _in_time(self, network: Any, measured: Probe, flip: float) -> Offer:
        config = self._config
        tta = self._views(measured, flip) if "tta" in self._chosen else config.tta
        left = config.budget.seconds * (1 - LOOK - TRIAL) - self._evaluations(tta, flip) * measured.score_seconds
        most = self._most_images()
        offer = Offer(network, measured, 0.0, config.batch_size, tta, flip)
        if "batch_size" in self._chosen:
            images = min(most, left / offer.image_seconds)
            fit = (size for size, steps in STEPS.items() if size * steps <= images and size <= len(self._train))
            offer = dataclasses.replace(offer, batch_size=next(fit, len(self._train)))
        return dataclasses.replace(offer, images=min(most, max(1.0, left / offer.step_seconds * offer.batch_size)))

    def _batch(self, size: int) -> tuple[int, int]:
        """A batch of about that size, and the images of its parts, so that all devices have as many whole parts."""
        devices = self._config.trainer.devices
        each = max(2, size // devices)
        part = each if self._device.kind == "cuda" else min(NORM_BATCH, each)
        return devices * part * (each // part), part

    def _most_images(self) -> float:
        if "epochs" not in self._chosen:
            epochs = self._config.schedule.epochs
            return math.inf if epochs is None else epochs * len(self._train)
        return MOST_EPOCHS * math.sqrt(max(AT_IMAGES, len(self._train)) * len(self._train))

    def _rest(self, best: Offer) -> float:
        """Share of the images that rest in each epoch."""
        least, most = RESTING_EPOCHS
        if best.network not in RESTING or best.flip == 0 or not least <= self._epochs(best) <= most:
            return 0.0
        measured = self._looks.at(MARKER)
        steps, size = lesson(len(self._train))
        small = Offer(MARKER, measured, steps * size, size, best.tta, flip=0.0)
        seconds = steps * small.step_seconds + len(self._train) * measured.score_seconds
        if seconds > MARK * self._config.budget.seconds:
            return 0.0
        self._reasons["rest"] = (
            f"{REST:.0%} of the images in each epoch, those that {network_name(MARKER)} knows best, each in every other"
            f" one; about {seconds:.0f} s to find them"
        )
        return REST

    def _bound(self, best: Offer, rest: float) -> float | None:
        """Epochs, of the images that do not rest, after which to stop; None to go on until time is up."""
        if best.images < self._most_images():
            return None
        epochs = self._epochs(best) / (1 - rest)
        self._reasons["epochs"] = f"{epochs:.0f}, as more of {len(self._train):,} images would bring nothing"
        return epochs

    def _evaluations(self, tta: TTA, flip: float) -> float:
        """Images scored in the end, in all their views."""
        return self._scored * views(tta, flip).scored(UNCERTAIN)

    def _views(self, measured: Probe, flip: float) -> TTA:
        """The most views that can be scored in their share of the budget."""
        smoothing, mirror = self._config.label_smoothing, flip > 0
        # As sure as smoothed labels let an answer be, times a factor.
        below = SURE * (1 - smoothing + smoothing / len(self._train.classes))
        # Most of the views around an image are moved: not as far as training images, or the image itself does better.
        options = [(1, True, AROUND)] * (self._padding(16) > 1)
        options += [(1, False, DIAGONAL), *[(0, False, MIRRORED)] * mirror]
        for shift, around, share in options:
            tta = dataclasses.replace(self._config.tta, mirror=mirror, shift=shift, around=around, below=below)
            if self._evaluations(tta, flip) * measured.score_seconds <= share * self._config.budget.seconds:
                return tta
        return dataclasses.replace(self._config.tta, mirror=False, shift=0)

    def _policy(self, best: Offer) -> Policy:
        strong = best.network in LARGE and self._epochs(best) >= STRONG_EPOCHS
        padding, cut = self._padding(8 if strong else 16), 3 * self._side // 8 if strong else 0
        words = [f"moved by up to {padding} pixels"]
        words += ["every second epoch mirrored"] * (best.flip > 0)
        words += [f"{cut}x{cut} pixels cut out, as a large network sees them often"] * strong
        self._reasons["augment"] = ", ".join(words)
        flip = Flip(0.5 if best.flip > 0 else 0.0, "alternating")
        return Policy(crop=Crop(padding, "reflect"), flip=flip, cutout=Cutout(cut))

    def _padding(self, part: int) -> int:
        """Pixels by which training images are moved: such a part of their side."""
        return max(1, round(self._side / part))

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

    def _about_mirrored(self, best: Offer, plain: float, mirrored: float) -> str:
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
        network = RUNGS[0].network
        measured = self._looks.at(network)
        offer = Offer(network, measured, 0.0, BATCH_SIZE, self._config.tta, flip=0.0)
        affordable = max(0.0, seconds - 2 * HELD * measured.score_seconds) / offer.step_seconds * BATCH_SIZE
        images = int(min(TRIAL_IMAGES, affordable))
        found = list(mirrored_accuracy(self._train, network, self._device, images))
        write_atomically(path, json.dumps(found).encode())
        return found
