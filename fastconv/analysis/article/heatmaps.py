"""Heatmaps with and without augmentation, by their measures: which lie on a more sensible part of the image."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from fastconv.analysis.article.rows import Measure, pair_by_seed
from fastconv.analysis.article.verdicts import NO, UNDECIDED, YES, verdict
from fastconv.analysis.attribution.findings import MEASURES
from fastconv.analysis.comparison.statistics import Summary, summarise

# The measures by which a heatmap is more sensible, higher is better: where the object is known, its share of the
# evidence; else by how much the pixels that it shows matter more than random ones, when they go and when they come.
ON_OBJECT, GAINS = "on_object", ("deletion_gain", "insertion_gain")
LAYERS = {"grad_cam": "Grad-CAM of the last block", "grad_cam_fine": "Grad-CAM of the block before it"}
# By whether a network was trained with augmentation.
TRAINED = {True: "with augmentation", False: "without augmentation"}


class Judgement(NamedTuple):
    """What a measure of the heatmaps says: are they more sensible with augmentation?"""

    measurement: str
    gain: Summary
    verdict: str
    doubt: str = ""
    """Why the gain decides nothing, although its interval excludes zero."""


def judge_heatmaps(measures: Sequence[Measure]) -> list[Judgement]:
    """Judge the heatmaps of a data set by each measure that decides, of each layer; one without n if none is there.

    Maps on a more sensible part of the image must also be better than random ones, else the measure decides nothing.

    Args:
        measures: those of the runs of one setup.
    """
    change = "with augmentation minus without, paired by seed"
    judged = []
    for method, title in LAYERS.items():
        own = [each for each in measures if each.method == method]
        known = [ON_OBJECT] if any(each.measure == ON_OBJECT for each in own) else GAINS
        for key in known if own else ():
            what = "share of the evidence on the object" if key == ON_OBJECT else MEASURES[key].title
            gain = measure_gain([each for each in own if each.measure == key])
            judged.append(_judge(f"{title}: {what}, {change}", gain, own))
    if judged:
        return judged
    gains = " and ".join(MEASURES[key].title for key in GAINS)
    unknown = summarise([])
    what = f"Grad-CAM: share of the evidence on the object if known, else {gains}; {change}"
    return [Judgement(what, unknown, verdict(unknown))]


def measure_gain(measures: Sequence[Measure]) -> Summary:
    """Summarise the differences of a measure with augmentation minus without, over the seeds that have both.

    A single pair's interval is over its images, as if its networks had been shown different ones.
    """
    gain = pair_by_seed({(each.augmented, each.seed): each.value for each in measures})
    if gain.n != 1:
        return gain
    seeds = {each.seed for each in measures if each.augmented} & {each.seed for each in measures if not each.augmented}
    variances = [each.sd**2 / each.n for each in measures if each.seed in seeds]
    return dataclasses.replace(gain, half_of_one=1.96 * math.sqrt(sum(variances)))


def _judge(measurement: str, gain: Summary, own: Sequence[Measure]) -> Judgement:
    answer = verdict(gain)
    better = {YES: True, NO: False}.get(answer.partition(" ")[0])
    if better is None or _beat_random([each for each in own if each.augmented is better]) is not False:
        return Judgement(measurement, gain, answer)
    return Judgement(measurement, gain, UNDECIDED, f"the heatmaps {TRAINED[better]} are not better than random")


def _beat_random(own: Sequence[Measure]) -> bool | None:
    """Whether deletion by a method's maps is better than by random ones, over the seeds, or over one seed's images.

    None if it is not known.
    """
    gains = [each for each in own if each.measure == "deletion_gain"]
    gain = summarise(each.value for each in gains)
    if len(gains) == 1:
        gain = Summary(gains[0].value, gains[0].sd, gains[0].n)
    return None if math.isnan(gain.half) else gain.is_significant and gain.mean > 0
