"""Makes the pages of results from the rows of benchmarks/results: python benchmarks/pages.py, or make results.

Each template of benchmarks/templates (jinja2) becomes the page of its name in docs/. Tables of other pages stand
between two comments, `<!--NAME-->` and `<!--/NAME-->`, and are made by the function of that name in `TABLES`. The
tables in benchmarks/results that follow from their rows alone are made again too.
"""

import functools
import importlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import jinja2
import techniques
from measurements import RESULTS, number, table_head
from measurements import read as read_csv

from fastconv.analysis.comparison.statistics import Summary, summarise

REPOSITORY = Path(__file__).parent.parent
TEMPLATES = Path(__file__).parent / "templates"
RESEARCH = Path(__file__).parent / "research"
# Programs whose `table()` follows from their rows alone.
PROGRAMS = ("best", "records", "calibration", "equal_work", "ensembles", "imbalance", "model_sizes", "pretrained",
            "small_images", "small_maps", "strides", "temperature", "uneven_folder", "whole_pictures",
            "winograd_accuracy")  # fmt: skip

EPYC, XEON = "AMD EPYC, 2 cores", "Intel(R) Xeon(R) Processor, 2 cores"

# The runs of techniques.csv that docs/techniques.md is about.
TECHNIQUES = {"device": XEON, "seconds": "100", "width": "16"}

Row = dict[str, str]
read = functools.cache(read_csv)


def rows(name: str, **equal: str) -> list[Row]:
    """The rows of `results/NAME.csv` whose values are those given, by seed where they have one."""
    found = [row for row in read(RESULTS / f"{name}.csv") if all(row[key] == value for key, value in equal.items())]
    return sorted(found, key=lambda row: int(row.get("seed") or 0))


def values(found: Iterable[Row], column: str, scale: float = 1) -> list[float]:
    """The numbers of a column."""
    return [scale * float(row[column]) for row in found]


def score(found: list[Row], column: str = "accuracy_tta", n: bool = True) -> str:
    """Shares as percentages: mean ± standard deviation; empty for no rows."""
    if not found:
        return ""
    summary = summarise(values(found, column, 100))
    spread = f" ± {summary.sd:.2f}" if len(found) > 1 else ""
    return f"{summary.mean:.2f}{spread} %{f' (n = {len(found)})' * n}"


def each(found: list[Row], column: str = "accuracy_tta", digits: int = 2, scale: float = 100) -> str:
    """The value of each row, by default shares as percentages."""
    return ", ".join(f"{value:.{digits}f}" for value in values(found, column, scale))


def span(found: list[Row], column: str, digits: int = 1, scale: float = 1) -> str:
    """The smallest and the largest value of a column, such as "1.0 to 1.3"."""
    numbers = values(found, column, scale)
    low, high = (f"{bound:,.{digits}f}" for bound in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def mean(found: list[Row], column: str, digits: int = 1, scale: float = 1) -> str:
    """The mean of a column."""
    return f"{round(summarise(values(found, column, scale)).mean, digits) + 0:,.{digits}f}"  # no -0.00


def networks(found: list[Row], column: str = "network") -> str:
    """The networks of rows, without the name of their family."""
    return ", ".join(sorted({row[column].removeprefix("airbench-") for row in found}))


def contenders(name: str, device: str = EPYC) -> dict[str, dict[str, float]]:
    """The values of a benchmark by contender and round: with the versions of the last row of a device, and of the
    same kind of it, for the name of a device goes on with its vector instructions."""
    found = [row for row in rows(name) if row["device"].startswith(device)]
    last, measured = found[-1], dict[str, dict[str, float]]()
    for row in found:
        if (row["device"], row["versions"]) == (last["device"], last["versions"]):
            measured.setdefault(row["contender"], {})[row["round"]] = float(row["value"])
    return measured


def middle(name: str, contender: str, unit: float = 1, digits: int | None = None, device: str = EPYC) -> str:
    """The median of a contender's rounds, in thousands of the unit for `unit=1000`."""
    value = median(contenders(name, device)[contender].values()) / unit
    return number(value) if digits is None else f"{value:,.{digits}f}"


def ratio(name: str, ours: str, other: str, digits: int = 2, less_is_better: bool = False, device: str = EPYC) -> str:
    """The factor by which `ours` is better, the median over the rounds that have both."""
    first, second = (contenders(name, device)[each] for each in (ours, other))
    factors = [first[at] / second[at] for at in first.keys() & second.keys()]
    return f"{median(1 / each if less_is_better else each for each in factors):.{digits}f}"


def rounds(name: str, contender: str) -> int:
    """Number of rounds of a contender."""
    return len(contenders(name)[contender])


def unfitted() -> list[dict[str, object]]:
    """For each kind of images of model_sizes.csv and each machine, the rule's runs, and those of the best by hand."""
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows("model_sizes"):
        key = tuple(row[name] for name in ("case", "budget", "device", "precision"))
        groups.setdefault(key, {}).setdefault(row["network"], []).append(row)
    found = []
    for (case, budget, device, precision), by_network in groups.items():
        rule = by_network.pop("best", [])
        whole = [hand for hand in by_network.values() if len(hand) == len(rule)]  # of all seeds
        if rule and whole:
            hand = max(whole, key=lambda hand: summarise(values(hand, "accuracy_tta")).mean)
            about = {"case": case, "budget": budget, "machine": f"{device}, {precision}"}
            found.append({**about, "rule": rule, "hand": hand})
    return sorted(found, key=lambda each: (str(each["machine"]), str(each["case"])))


def gain(found: list[Row], base: list[Row], column: str = "accuracy") -> str:
    """Points that runs have more than those of equal seed, with half of the 95 % interval; bold if significant."""
    theirs = {row["seed"]: 100 * float(row[column]) for row in base}
    more = summarise(100 * float(row[column]) - theirs[row["seed"]] for row in found)
    text = f"{more.mean:+.2f} ± {more.half:.2f}"
    return f"**{text}**" if more.is_significant else text


def effect(technique: str, kind: str) -> str:
    """Points of accuracy that a technique of techniques.csv brings, `alone` or `left out`, with the same interval."""
    (found,) = (each for name, of, _, each in _effects() if (name, of) == (technique, kind))
    return f"{found.mean:+.2f} ± {found.half:.2f}"


@functools.cache
def _effects() -> list[tuple[str, str, str, techniques.Gain]]:
    return techniques.effects(rows("techniques", **TECHNIQUES))


def doubled(kind: str) -> str:
    """Points that twice the epochs are worth."""
    found = techniques.fit(kind, rows("techniques", **TECHNIQUES))[1]
    return f"{found.mean:.1f} ± {found.half:.1f}"


def longer(technique: str) -> str:
    """By how much a technique makes a step longer, alone and beside the others."""
    name = "techniques_step"
    alone = 100 / float(ratio(name, f"{technique} alone", "none", 6, device=XEON)) - 100
    beside = 100 / float(ratio(name, "all", f"all but {technique}", 6, device=XEON)) - 100
    low, high = (f"{bound:+.0f}" for bound in sorted((alone, beside)))
    return f"{low} %" if low == high else f"{low} to {high} %"


SIDES = ("without augmentation", "with augmentation")
# Of heatmaps, what is not compared between networks.
ABSOLUTE = ("deletion", "deletion_random", "insertion", "insertion_random", "gap")


def kept_runs(dataset: str) -> list[Row]:
    """The runs of augmentation_effect, by seed."""
    folder = RESULTS / "augmentation_effect" / dataset
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("results-*.json"))]
    return [{**run, "side": SIDES["augment=standard" in run["overrides"]]} for run in found]


def measured(
    dataset: str, method: str, measure: str, side: str | None = None, digits: int = 2, scale: float = 1
) -> str:
    """The mean of a measure of heatmaps over the runs of a side, or of both."""
    found = rows(f"augmentation_effect/{dataset}/measures", method=method, measure=measure)
    return mean([row for row in found if side in (None, row["side"])], "mean", digits, scale)


def difference(dataset: str, method: str, measure: str, digits: int = 1, scale: float = 100) -> str:
    """By how much a measure of heatmaps changes with augmentation, with half of the 95 % interval."""
    change = _change(rows(f"augmentation_effect/{dataset}/measures", method=method, measure=measure), "mean")
    return f"{scale * change.mean:+.{digits}f} ± {scale * change.half:.{digits}f}"


def differing(dataset: str) -> tuple[int, int]:
    """How many measures of heatmaps differ significantly, and of how many."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows(f"augmentation_effect/{dataset}/measures"):
        if row["measure"] not in ABSOLUTE:
            groups.setdefault((row["method"], row["measure"]), []).append(row)
    changes = [_change(found, "mean") for found in groups.values()]
    changes = [each for each in changes if each.mean or each.sd]  # not those that are equal by construction
    return sum(each.is_significant for each in changes), len(changes)


def interval(found: list[Row], column: str) -> str:
    """Points that the runs with augmentation have more, and the 95 % interval."""
    change = _change(found, column)
    low, middle, high = (100 * (change.mean + each) for each in (-change.half, 0, change.half))
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def _change(found: list[Row], column: str) -> Summary:
    """With augmentation less without, over pairs of equal seed."""
    first, second = ({row["seed"]: float(row[column]) for row in found if row["side"] == side} for side in SIDES)
    return summarise(second[seed] - first[seed] for seed in first)


def best_of_readme() -> str:
    """README's table: `experiment=best` on the machine with AMX, the longest budget first."""
    names = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}
    machine = {"device": XEON, "precision": "bf16", "experiment": "best"}
    lines = table_head(["budget", *names.values()])
    for budget in ("1000", "300", "100", "30"):
        scores = [score(rows("best", dataset=dataset, budget=budget, **machine), n=False) for dataset in names]
        lines.append(f"| {budget} s | {' | '.join(scores)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def temperatures() -> str:
    """Expected calibration errors by how the temperature is found, and the temperatures."""
    ways = {"fitted on held-out images": "held_out", "on labels of training images": "labels", "as runs do": "ours"}
    lines = table_head(["run", "epochs", "without", *ways])
    for row in sorted(rows("temperature"), key=lambda row: float(row["epochs"])):
        cells = [f"{float(row[f'ece_{way}']):.3f} ({float(row[f'temperature_{way}']):.3f})" for way in ways.values()]
        start = f"| {row['run']} | {float(row['epochs']):.1f} | {float(row['ece_unscaled']):.3f}"
        lines.append(f"{start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rare_class() -> str:
    """How much of a rare class is found without and with equal sampling."""
    plain, sampled = (
        mean(rows("imbalance", case="fashion_mnist, shirts", way=way), "rare_recall", scale=100)
        for way in ("plain", "sampling 1/n")
    )
    found = rows("imbalance", case="fashion_mnist, shirts", way="sampling 1/n")
    uneven = {way: rows("uneven_folder", images="cifar10", objective=way) for way in ("accuracy", "balanced_accuracy")}
    of_all, of_rare = (
        [mean(some, key, scale=100) for some in uneven.values()] for key in ("balanced_accuracy", "rare_recall")
    )
    return (
        f"Of Fashion-MNIST with 1 % of its shirts, {sampled} % of the shirts were found instead of {plain} % ({EPYC}, n"
        f" = {len(found)}).\n[The rows](../benchmarks/results/imbalance.md) have class weights and adjusted logits too."
        "\nOf CIFAR-10 with 100 images of five classes and 2,000 of the others, `experiment=best` in 40 s has a"
        f"\nbalanced accuracy of {of_all[1]} % instead of {of_all[0]} %, and finds {of_rare[1]} % of the rare classes"
        f" instead of {of_rare[0]} %\n([rows](../benchmarks/results/uneven_folder.md),"
        f" {uneven['accuracy'][0]['device']}, n = {len(uneven['accuracy'])})."
    )


TABLES = {
    "README.md": {"best": best_of_readme},
    "docs/own-data.md": {"rare_class": rare_class},
    "docs/runs.md": {"temperatures": temperatures},
}


def made() -> dict[Path, str]:
    """The content of every file that follows from the rows."""
    given = (rows, score, each, span, mean, networks, middle, ratio, rounds, unfitted, gain, effect, doubled,
             longer, kept_runs, measured, difference, differing, interval)  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals |= {function.__name__: function for function in given} | {"fast_recipes": TECHNIQUES}
    found = {}
    for template in sorted(TEMPLATES.glob("*.md")):
        found[REPOSITORY / "docs" / template.name] = environment.get_template(template.name).render()
    for name, tables in TABLES.items():
        text = (REPOSITORY / name).read_text()
        for mark, table in tables.items():
            between = f"(<!--{mark}-->\n\n).*?(\n\n<!--/{mark}-->)"
            text, count = re.subn(between, rf"\g<1>{table()}\g<2>", text, flags=re.S)
            assert count == 1, f"{name} has not one table {mark}"
        found[REPOSITORY / name] = text
    for name in PROGRAMS:
        found[RESULTS / f"{name}.md"] = importlib.import_module(name).table()
    return found


def main() -> None:
    sys.path.append(str(RESEARCH))
    for path, text in made().items():
        if path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(REPOSITORY)} is new")


if __name__ == "__main__":
    main()
