"""The effect of each technique of the article on Fashion-MNIST: python benchmarks/ablations.py [folder for the runs]

The shipped sweeps experiment=ablation_*, three seeds each, 100 s a run, one core: about 90 minutes. Finished runs are
kept in the folder, and a stopped one goes on. Keeps tables, the figure and the sweeps' pages in
benchmarks/results/ablations.

DavidNet has an eighth of its width here, so that one core without bf16 gets through two epochs in the time.
"""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from measurements import RESULTS, describe_device, describe_versions, table_head

from fastconv.analysis.comparison.groups import Group, group_runs
from fastconv.analysis.comparison.statistics import Summary, summarise
from fastconv.analysis.figures import save
from fastconv.analysis.html import write_csv
from fastconv.runs.collection import Entry, find_runs

# Each sweep with what it varies, and the setting that the others are compared with.
ABLATIONS = {
    "augment": ("the parts of augmentation", "none"),
    "schedule": ("the schedule", "one_cycle"),
    "all": ("augmentation and one-cycle, alone and together", "none, constant"),
    "stream": ("when images are augmented", "online"),
}
SETTINGS = ("dataset=fashion_mnist", "model.width=8", "trainer.num_threads=1")
KEPT = RESULTS / "ablations"
HEADER = ("setting", "accuracy %", "better by (95 % interval)", "epochs", "images/s", "waiting for data")


def main(runs: str = "outputs/ablations", *settings: str) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    found = {}
    for ablation in ABLATIONS:
        folder = Path(runs, ablation)
        command = [sys.executable, "-m", "fastconv.train", f"experiment=ablation_{ablation}"]
        subprocess.run([*command, f"sweep.resume={folder}", *(settings or SETTINGS)], check=True)
        found[ablation] = group_runs(find_runs([folder]))
        # From the folder of all, so that the page names runs by their place there.
        command = [sys.executable, "-m", "fastconv.compare", f"runs={ablation}", f"page={KEPT / f'{ablation}.html'}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=runs)
    text = "\n".join(["# What each technique is worth on Fashion-MNIST", "", *tables(found), about(found)])
    (KEPT / "ablations.md").write_text(text + "\n")
    write_csv(
        KEPT / "runs.csv", [row(ablation, each) for ablation, groups in found.items() for each in members(groups)]
    )
    draw(found, KEPT / "ablations.png")
    print(text)


def name(group: Group) -> str:
    return ", ".join(str(group.values[key]) for key in ("augment", "schedule", "stream") if key in group.values)


def members(groups: list[Group]) -> list[Entry]:
    return sorted((entry for group in groups for entry in group.entries), key=lambda entry: int(entry.folder.name))


def gain(group: Group, reference: Group) -> Summary:
    """By how much a setting is better, over pairs of runs with equal seeds."""
    ours, theirs = ({run.seed: run.accuracy for run in each.finished} for each in (group, reference))
    return summarise(ours[seed] - theirs[seed] for seed in ours if seed in theirs)


def tables(found: dict[str, list[Group]]) -> list[str]:
    lines = []
    for ablation, groups in found.items():
        title, base = ABLATIONS[ablation]
        reference = next(group for group in groups if name(group) == base)
        lines += [f"## {title[0].upper()}{title[1:]}", "", *table_head(HEADER)]
        for group in groups:
            accuracy, better = group.summary("accuracy"), gain(group, reference)
            difference = (
                f"{100 * better.mean:+.2f} ± {100 * better.half:.2f}" + " (significant)" * better.is_significant
            )
            cells = [
                name(group),
                f"{100 * accuracy.mean:.2f} ± {100 * accuracy.sd:.2f}",
                "" if group is reference else difference,
                f"{group.summary('epochs').mean:.2f}",
                f"{group.summary('images_per_second').mean:,.0f}",
                f"{group.summary('dataloader_wait_fraction').mean:.1%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def about(found: dict[str, list[Group]]) -> str:
    runs = [run for groups in found.values() for group in groups for run in group.finished]
    seeds = sorted({run.seed for run in runs})
    return (
        f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}; differences are of pairs with equal"
        f" seeds, with the half of their 95 % interval (Student's t, n = {len(seeds)}). {len(runs)} runs of"
        f" {runs[0].budget_seconds:g} s, DavidNet of {runs[0].parameters:,} parameters, one core of:"
        f" {describe_device()}; {time.strftime('%Y-%m-%d')}; {describe_versions()}."
    )


def row(ablation: str, entry: Entry) -> dict[str, object]:
    results = entry.results
    return {
        "ablation": ablation,
        "setting": ", ".join(str(entry.setting(key)) for key in ("augment", "schedule", "stream")
                             if ablation in (key, "all") and entry.setting(key) is not None),
        "seed": results.seed,
        "accuracy": results.accuracy,
        "epochs": results.epochs,
        "seconds_counted": results.seconds_counted,
        "images_per_second": results.images_per_second,
        "dataloader_wait_fraction": results.dataloader_wait_fraction,
        **{f"{segment}_seconds": round(spent, 2) for segment, spent in results.seconds.items()},
        "git_commit": results.git_commit,
    }  # fmt: skip


def draw(found: dict[str, list[Group]], path: Path) -> None:
    """A panel for each sweep: the runs, and the mean with its 95 % interval, of each setting."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    run = next(run for groups in found.values() for group in groups for run in group.finished)
    figure.suptitle(f"{run.dataset}, {run.budget_seconds:g} s: test accuracy of the runs, mean and 95 % interval")
    panels = figure.subplots(1, len(found), sharey=True, width_ratios=[len(groups) for groups in found.values()])
    for axes, (ablation, groups) in zip(panels, found.items(), strict=True):
        ordered = sorted(groups, key=lambda group: int(group.entries[0].folder.name))
        for place, group in enumerate(ordered):
            summary = group.summary("accuracy")
            accuracies = [100 * run.accuracy for run in group.finished]
            axes.plot([place] * len(accuracies), accuracies, ".", color="0.6", markersize=5)
            axes.errorbar(place + 0.15, 100 * summary.mean, 100 * np.nan_to_num(summary.half), fmt="o", color="C0")
        names = [name(group).replace(", ", "\n") for group in ordered]
        axes.set_xticks(range(len(ordered)), names, fontsize=8, rotation=0 if ablation == "all" else 30)
        axes.set_title(textwrap.fill(ABLATIONS[ablation][0], 8 * len(ordered)), fontsize=9)
        axes.margins(x=0.15)
        axes.grid(alpha=0.3, axis="y")
    panels[0].set_ylabel("test accuracy in %")
    save(figure, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
