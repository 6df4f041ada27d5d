"""The article's claims, each with the measurement that decides it: yes, no, or undecided."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.analysis.article.heatmaps import judge_heatmaps
from fastconv.analysis.article.rows import Measure, Row, Setup, labels, pair_by_seed, setups
from fastconv.analysis.article.verdicts import NO, NOT_MEASURED, UNDECIDED, YES, interval, opposite, verdict
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.data.sources.base import builtin_sets

# Seconds of training and validation that the article has for a run.
ARTICLE_SECONDS = 1000.0
# A run that ran out of time before the last epoch, after at least this share of the article's seconds, did not fit.
USED_UP = 0.99
# An error rate is near another if it is at most this multiple of it. (DavidNet's published 94.08 % on CIFAR-10 is 1.48
# times the error of the ResNet-18 below.)
NEAR = 1.5


@dataclass(frozen=True)
class Published:
    """A published accuracy in percent, of a single network without further training images, and its source."""

    percent: float
    network: str
    source: str
    davidnet: str = ""
    """What was published for the article's network itself."""


PUBLISHED = {
    "cifar10": Published(
        96.0,
        "ResNet-18",
        "https://arxiv.org/abs/2404.00498",
        "94.08 % after 24 epochs (median of 50 runs, https://github.com/davidcpage/cifar10-fast)",
    ),
    "fashion_mnist": Published(96.7, "WRN-40-4", "https://github.com/zalandoresearch/fashion-mnist"),
    "mnist": Published(99.8, "best single networks", "https://arxiv.org/abs/2008.10400"),
}
# Each of these data sets has as many.
TEST_IMAGES = 10_000


@dataclass(frozen=True)
class Claim:
    """A claim about a data set: the verdict, the measurement, its result and n, and the command that repeats it."""

    claim: str
    dataset: str
    setup: Setup
    """Of the runs that it is judged by."""
    verdict: str
    measurement: str
    found: str
    n: int
    command: str

    @property
    def mean(self) -> str:
        """The result without its interval."""
        return self.found.partition(" (")[0]


def claims(setup: Setup, rows: Sequence[Row], measures: Sequence[Measure]) -> list[Claim]:
    """Judge every claim on every data set, by the runs of one setup."""
    rows = [row for row in rows if row.setup == setup]
    measures = [each for each in measures if each.setup == setup]
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    of = {name: [row for row in rows if row.dataset == name] for name in datasets}
    found = [_augmentation_helps(setup, name, of[name]) for name in datasets]
    for name in datasets:
        again = command(setup, of[name])
        found += _heatmaps_are_sensible(setup, name, [each for each in measures if each.dataset == name], again)
    found += [_seconds_suffice(setup, name, of[name]) for name in datasets]
    found += [_is_near(setup, name, of[name]) for name in datasets if name in PUBLISHED]
    return found


def claims_of(setups: Sequence[Setup], rows: Sequence[Row], measures: Sequence[Measure]) -> list[Claim]:
    """Judge every claim on every data set by the runs of several setups: claim by claim, then by data set and setup.

    Of what no setup has measured, one stays that says so; else only those that are measured.
    """
    found = [each for setup in setups for each in claims(setup, rows, measures)]
    texts, datasets = (
        list(dict.fromkeys(values)) for values in ([each.claim for each in found], [row.dataset for row in rows])
    )
    found.sort(key=lambda each: (texts.index(each.claim), datasets.index(each.dataset)))
    measured = {(each.claim, each.dataset) for each in found if each.n}
    told: set[tuple[str, str]] = set()
    kept = []
    for each in found:
        subject = (each.claim, each.dataset)
        if each.n or (subject not in measured and subject not in told):
            kept.append(each)
        told.add(subject)
    return kept


def findings(found: Sequence[Claim]) -> list[str]:
    """Say each claim's verdicts in a line, with the mean of a single measurement: by data set, and by what their setups
    differ in."""
    names = labels([each.setup for each in found])
    lines = []
    for text in dict.fromkeys(each.claim for each in found):
        answers = []
        for dataset, setup in dict.fromkeys((each.dataset, each.setup) for each in found if each.claim == text):
            some = [each for each in found if (each.claim, each.dataset, each.setup) == (text, dataset, setup)]
            counts = Counter(each.verdict for each in some)
            of = f" in {{}} of {len(some)} measurements" if len(counts) > 1 else ""
            told = ", ".join(answer + of.format(n) for answer, n in counts.items())
            if len(some) == 1 and some[0].n:
                told += f", {some[0].mean}"
            name = names[setup] if NOT_MEASURED not in counts else ""
            answers.append(f"{dataset} {told}" + f" [{name}]" * bool(name))
        lines.append(f"{text}: {'; '.join(answers)}.")
    return lines


def half_over_images(accuracies: Sequence[float]) -> float:
    """Return half of the 95 % interval, in points, of an accuracy, or of the sum or difference of several.

    By the binomial distribution of correct predictions among the test images. For a difference on the same images the
    interval is too wide rather than too narrow, since networks mostly fail on the same ones.

    Args:
        accuracies: shares in [0, 1].
    """
    return 196 * math.sqrt(sum(share * (1 - share) / TEST_IMAGES for share in accuracies))


def command(setup: Setup, rows: Sequence[Row]) -> str:
    """Return the command that measures a data set's rows of a setup anew, on the machine that it is typed on.

    It is empty for what benchmarks/article.py does not train: runs that ended by time instead of epochs, images of
    your own, and other augmentations.
    """
    has_policy = any(text.startswith("augment=") for text in setup.settings.split())
    if not setup.max_epochs or not rows or rows[0].dataset not in builtin_sets() or has_policy:
        return ""
    seeds = ",".join(map(str, sorted({row.seed for row in rows})))
    given = [f"datasets={rows[0].dataset}", f"seeds={seeds}", f"epochs={setup.max_epochs:g}"]
    given += [f"model.width={setup.width}"] if setup.width not in (0, 64) else []
    given += [f"trainer.precision={setup.precision}"] if setup.precision in ("fp32", "bf16") else []
    return " ".join(["python benchmarks/article.py", *given, *filter(None, [setup.settings]), "results=again"])


def gain_by_epochs(rows: Sequence[Row], setup: Setup) -> list[tuple[Setup, str, Summary, Summary, Summary]]:
    """Compare training with and without augmentation at every number of epochs, with all else as in a setup.

    Returns (setup, data set, accuracy without augmentation, with it, difference by seed), all in percent.
    """
    found = []
    alike = [row for row in rows if row.setup._replace(max_epochs=setup.max_epochs) == setup]
    for dataset in dict.fromkeys(row.dataset for row in alike):
        for each in sorted(setups(alike)):
            here = [row for row in alike if (row.setup, row.dataset) == (each, dataset)]
            plain, augmented = (
                summarise(100 * row.accuracy for row in here if row.augmented is wanted) for wanted in (False, True)
            )
            if here:
                found.append((each, dataset, plain, augmented, _accuracy_gain(here)))
    return found


def _accuracy_gain(rows: Sequence[Row]) -> Summary:
    gain = pair_by_seed({(row.augmented, row.seed): 100 * row.accuracy for row in rows})
    if gain.n != 1 or rows[0].dataset not in PUBLISHED:
        return gain
    seeds = {row.seed for row in rows if row.augmented} & {row.seed for row in rows if not row.augmented}
    return dataclasses.replace(gain, half_of_one=half_over_images([row.accuracy for row in rows if row.seed in seeds]))


def _augmentation_helps(setup: Setup, dataset: str, rows: list[Row]) -> Claim:
    gain = _accuracy_gain(rows)
    return Claim(
        "Accuracy is lower without augmentation",
        dataset,
        setup,
        verdict(gain),
        "test accuracy with augmentation minus that without, paired by seed",
        interval(gain, "+.2f", " points"),
        gain.n,
        command(setup, rows),
    )


def _heatmaps_are_sensible(setup: Setup, dataset: str, measures: list[Measure], again: str) -> list[Claim]:
    text = "Heatmaps lie on a more sensible part of the image with augmentation"
    return [
        Claim(
            text,
            dataset,
            setup,
            each.verdict,
            each.measurement,
            "; ".join(filter(None, [interval(each.gain, "+.3f"), each.doubt])),
            each.gain.n,
            again,
        )
        for each in judge_heatmaps(measures)
    ]


def _seconds_suffice(setup: Setup, dataset: str, rows: list[Row]) -> Claim:
    seconds = summarise(row.seconds for row in rows)
    cut = [row for row in rows if not row.is_whole]
    # The range of the runs instead of an interval of their mean: how long each of them took is known.
    times = [row.seconds for row in rows]
    text = f"{seconds.mean:.1f} s ({min(times):.1f} to {max(times):.1f})"
    if cut:
        out_of_time = any(row.seconds >= USED_UP * ARTICLE_SECONDS for row in cut)
        text += f"; time ended {len(cut)} of {len(rows)} runs, after {min(row.epochs for row in cut):.1f} epochs"
        answer = NO if out_of_time else UNDECIDED
    else:
        answer = YES if max(times) <= ARTICLE_SECONDS else NO if min(times) > ARTICLE_SECONDS else UNDECIDED
    return Claim(
        f"{ARTICLE_SECONDS:g} s are enough",
        dataset,
        setup,
        answer,
        "seconds of training and validation of all epochs, with and without augmentation",
        text,
        seconds.n,
        command(setup, rows),
    )


def _is_near(setup: Setup, dataset: str, rows: list[Row]) -> Claim:
    known = PUBLISHED[dataset]
    error = 100 - known.percent
    accuracies = [row.accuracy for row in rows if row.augmented]
    ratio = summarise(100 * (1 - accuracy) / error for accuracy in accuracies)
    if ratio.n == 1:
        ratio = dataclasses.replace(ratio, half_of_one=half_over_images(accuracies) / error)
    return Claim(
        "The error is near the state of the art",
        dataset,
        setup,
        opposite(verdict(ratio, NEAR)),
        f"test error with augmentation, as a multiple of {error:.1f} % ({known.network}, {known.source}); near is at"
        f" most {NEAR:g}",
        interval(ratio, ".2f", " times its error"),
        ratio.n,
        command(setup, rows),
    )
