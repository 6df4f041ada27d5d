"""Figures of many runs: accuracy against time, curves over time, and the effect of each setting."""

from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Drawing

from fastconv.analysis.comparison.effects import Effect
from fastconv.analysis.comparison.groups import Group, pareto_front
from fastconv.analysis.comparison.legends import legend_names, legend_texts
from fastconv.analysis.figures import figure_text, save
from fastconv.analysis.run_figures import OTHER_SCALE, column, label_smoothing, read_metrics
from fastconv.runs.collection import as_text
from fastconv.runs.results import Results
from fastconv.system.wording import counted

# The first groups get a colour and a name; the others are grey.
COLOURED = 10
# Runs whose curves are drawn, the best settings first: more would hide each other.
CURVES = 500
# Values of a setting that are named.
VALUES = 20
LABELS = {
    "accuracy": "accuracy in %",
    "accuracy_tta": "accuracy with TTA in %",
    "accuracy_holdout": "held-out accuracy in %",
    "accuracy_holdout_tta": "held-out accuracy with TTA in %",
    "balanced_accuracy": "balanced accuracy in %",
    "balanced_accuracy_holdout": "held-out balanced accuracy in %",
    "macro_f1": "macro F1 in %",
    "macro_f1_holdout": "held-out macro F1 in %",
}


def colour(place: int) -> str:
    """Return the colour of the group at a position of the table."""
    return f"C{place}" if place < COLOURED else "0.7"


def others(count: int) -> str:
    """Name the groups that are grey."""
    return counted(count - COLOURED, "other setting")


def height(names: list[str]) -> float:
    """Return the height of a figure, in inches, whose legend has the names that get a colour."""
    return max(4.6, 0.6 + 0.15 * sum(name.count("\n") + 1 for name in names[:COLOURED]))


def draw_front(groups: list[Group], measure: str, path: Path) -> bool:
    """Plot accuracy against the seconds that the budget counted: runs, means of groups, and the Pareto front.

    Returns whether there was anything to draw.
    """
    names, runs, means = legend_names(groups), [], []
    drawing = Drawing(figsize=(9, height(names)), layout="constrained")
    axes = drawing.add_subplot(xlabel="seconds counted", ylabel=LABELS[measure])
    for group in groups:
        found = [(run.seconds_counted, 100 * getattr(run, measure)) for run in group.finished
                 if run.seconds_counted is not None and getattr(run, measure) is not None]  # fmt: skip
        runs.append(np.array(found).reshape(-1, 2))
        mean = group.summary("seconds_counted").mean, 100 * group.summary(measure).mean  # as the table has them
        means.append(np.array([mean]) if found else runs[-1])
    points = [tuple(mean) for mean in np.concatenate(means).tolist()]
    if not points:
        return False
    # All grey groups at once: a line for each of thousands would take minutes.
    for place in (COLOURED, *range(min(COLOURED, len(groups)))):
        which = slice(place, place + 1) if place < COLOURED else slice(place, None)
        if not len(some := np.concatenate([np.empty((0, 2)), *runs[which]])):
            continue
        axes.plot(*some.T, ".", color=colour(place), markersize=4, alpha=0.6)
        label = names[place] if place < COLOURED else others(len(groups))
        dots = np.concatenate(means[which])
        axes.plot(*dots.T, "o", color=colour(place), markersize=8, markeredgecolor="black", label=label)
    # Runs of one budget end within fractions of a second of each other, which make none of them faster.
    seconds = [each for each, _ in points]
    step = max(seconds) / 100 or 1.0
    front = [points[index] for index in pareto_front([(round(each / step), score) for each, score in points])]
    # Rings, since a line through a single mean cannot be seen.
    (line,) = axes.plot(*zip(*front, strict=True), "-o", color="black", linewidth=0.9, markersize=13, zorder=0)
    line.set(fillstyle="none", label="best for the time (front)")
    if max(seconds) - min(seconds) < 10 * step:
        axes.set_xlim(min(seconds) - 5 * step, max(seconds) + 5 * step)
    if max(seconds) > 8 * min(seconds) > 0:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    drawing.legend(loc="outside right upper", fontsize=8)
    save(drawing, path)
    return True


def draw_curves(groups: list[Group], path: Path) -> bool:
    """Plot validation accuracy over the counted seconds, of all runs of the first groups up to `CURVES` runs.

    Returns whether there was any to draw.
    """
    drawn, names = False, legend_names(groups)
    drawing = Drawing(figsize=(9, height(names)), layout="constrained")
    axes = drawing.add_subplot(xlabel="seconds counted", ylabel="validation accuracy in %")
    entries = [group.entries for group in groups]
    grey = [entry for each in entries[COLOURED:] for entry in each]
    for place, some in reversed(list(enumerate([*entries[:COLOURED], grey]))):
        before = sum(map(len, entries[:place]))
        some = some[: max(0, CURVES - before)]
        lines = [curve for entry in some if len(curve := validation_curve(entry.folder))]
        if lines:
            label = names[place] if place < COLOURED else others(len(groups))
            axes.add_collection(LineCollection(lines, colors=colour(place), linewidths=1.2, alpha=0.75, label=label))
            ends = np.concatenate(lines)
            # No line shows where a run was validated only once.
            axes.plot(*ends.T, ".", color=colour(place), markersize=3 if len(ends) > len(lines) else 8)
            drawn = True
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8)
    if drawn:
        save(drawing, path)
    return drawn


def validation_curve(run: Path) -> np.ndarray:
    """Return (seconds counted, accuracy in %) of each validation of a run, float64 [N, 2]; empty if unreadable."""
    try:
        metrics = read_metrics(run / "metrics.csv", ("train/epoch", "budget/seconds_counted", "validate/accuracy"))
    except ValueError:
        return np.empty((0, 2))
    at, seconds = column(metrics, "budget/seconds_counted")
    epochs, accuracy = column(metrics, "validate/accuracy")
    if not len(at) or not len(epochs):
        return np.empty((0, 2))
    # A validation has no seconds of its own in the table: those of the training step before it.
    return np.stack([np.interp(epochs, at, seconds), 100 * accuracy], axis=1)


def draw_effects(effects: list[Effect], measure: str, path: Path) -> None:
    """Draw a panel for each setting: every seed at each of its values, and their mean."""
    columns = min(3, len(effects))
    lines = -(-len(effects) // columns)
    drawing = Drawing(figsize=(3.4 * columns + 1, 2.9 * lines + 0.3), layout="constrained")
    grid = drawing.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(effects) :]:
        axes.axis("off")
    for axes, effect in zip(grid.flat, effects, strict=False):
        places = np.arange(len(effect.values))
        each_run = np.repeat(places, [len(results) for results in effect.results])
        axes.plot(each_run, 100 * np.concatenate(effect.results), ".", color="0.6")
        line = "o-" if effect.is_numeric else "o"
        axes.plot(places, [100 * np.mean(results) for results in effect.results], line, color="C0")
        places = places[:: -(-len(places) // VALUES)]
        names = [figure_text(as_text(effect.values[place]), 18) for place in places]
        axes.set_xticks(places, names, fontsize=8, rotation=30 if sum(map(len, names)) > 36 else 0)
        axes.set_title(figure_text(effect.key, 40), fontsize=10)
        axes.grid(alpha=0.3, axis="y")
        axes.margins(x=0.15)
    for axes in grid[:, 0]:
        axes.set_ylabel(LABELS[measure], fontsize=9)
    save(drawing, path)


def draw_learning(runs: dict[str, Path], title: str, path: Path) -> bool:
    """Plot loss, accuracy and learning rate of some runs, by name; returns whether there was any data.

    Losses are on a logarithmic scale, on which overfitting shows, and accuracies from the lowest one after the first
    epoch on: before it, they rise from that of chance.
    """
    drawing = Drawing(figsize=(12, 3.8), layout="constrained")
    drawing.suptitle(figure_text(title))
    panels = drawing.subplots(1, 3)
    drawn, lowest = False, 100.0
    for number, (label, folder) in enumerate(zip(legend_texts(list(runs)), runs.values(), strict=True)):
        try:
            metrics = read_metrics(folder / "metrics.csv")
        except ValueError:
            continue
        for axes, key, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=False):
            for split, style in (("train", {"linewidth": 1, "alpha": 0.6}), ("validate", {"marker": "o", "ls": ""})):
                epochs, values = column(metrics, f"{split}/{key}")
                axes.plot(epochs, scale * values, color=f"C{number}", markersize=4, **style)
                if key == "accuracy":
                    lowest = min([lowest, *(scale * values[epochs >= 1])])
        panels[2].plot(*column(metrics, "schedule/lr"), color=f"C{number}", label=label)
        if smooths_labels(folder):
            panels[0].set_title(OTHER_SCALE, fontsize=8)
        drawn = True
    for axes, label in zip(panels, ("cross-entropy", "accuracy in %", "learning rate"), strict=True):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].set_title("lines: training images as augmented; dots: validation", fontsize=8)
    if lowest < 100:
        panels[1].set_ylim(lowest - 0.1 * (100 - lowest), 100 + 0.05 * (100 - lowest))
    if drawn:
        drawing.legend(*panels[2].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
        save(drawing, path)
    return drawn


def smooths_labels(run: Path) -> bool:
    """Whether a run trained on smoothed labels, as far as its results say."""
    try:
        return label_smoothing(Results.read(run).hparams) > 0
    except (OSError, ValueError):
        return False
