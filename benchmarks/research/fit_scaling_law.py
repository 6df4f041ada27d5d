"""Fits the law of `fastconv.budget.autotune.scaling_law` to the runs in benchmarks/results.

PYTHONPATH=benchmarks python benchmarks/research/fit_scaling_law.py

Uses the runs of scaling_law.csv and those of equal_work.csv that take no shortcut and learn from fewer images. Prints
the numbers of the law, and makes benchmarks/results/scaling_law.md and scaling_law.png of the runs and the law.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import mean

import numpy as np
from equal_work import HELD as FEWER
from equal_work import Trial
from measurements import RESULTS, read, table_head
from scipy.optimize import minimize

NETWORKS = ("8", "16", "32", "64", "95", "96")
# Their names in the figure.
NAMES = {
    "8": "8-32-32",
    "16": "16-64-64",
    "32": "32-128-128",
    "64": "airbench94",
    "95": "airbench95",
    "96": "airbench96",
}
TITLES = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "mnist": "MNIST"}
# Images to which the curves of the figure are drawn: all runs end before.
LAST = 3_000_000
DATASETS = {"cifar10": 50_000, "fashion_mnist": 60_000, "mnist": 60_000}
# Share of them that scaling_law.csv holds out.
HELD = 0.1
# With fewer steps a run depends on the steps more than on the images.
LEAST_STEPS = 80
# Standard deviation of the logarithm of the error between seeds, beside the sampling error of the held-out images.
SPREAD = 0.03


@dataclass(frozen=True)
class Point:
    """The best of the settings that were tried with a data set, a network and a number of epochs.

    `held`: number of held-out images. `error`: mean over `seeds` runs.
    """

    dataset: str
    held: int
    network: str
    epochs: float
    error: float
    seeds: int
    settings: str

    @property
    def images(self) -> float:
        return self.epochs * (DATASETS[self.dataset] - self.held)

    @property
    def weight(self) -> float:
        """One over the standard deviation of the logarithm of the error."""
        return ((1 - self.error) / (self.held * self.error) + SPREAD**2 / self.seeds) ** -0.5


def points() -> list[Point]:
    runs: dict[tuple, list[float]] = defaultdict(list)
    for row in read(RESULTS / "scaling_law.csv"):
        if "max_lr" not in row["settings"] and "flip" not in row["settings"] and int(row["steps"]) >= LEAST_STEPS:
            held, settings = round(HELD * DATASETS[row["dataset"]]), f"{row['augment']} {row['settings']}".strip()
            key = row["dataset"], held, row["network"], float(row["epochs"]), settings
            runs[key].append(1 - float(row["accuracy_holdout_tta"]))
    for row in read(RESULTS / "equal_work.csv"):
        usual = Trial(
            dataset=row["dataset"],
            network=row["network"],
            work=float(row["work"]),
            batch_size=int(row["batch_size"]),
            flip=int(row["dataset"] == "cifar10"),
            seed=int(row["seed"]),
        )
        if row["network"] in NETWORKS and usual.about.items() <= row.items():
            settings = f"airbench batch_size={usual.batch_size}"
            key = usual.dataset, FEWER, usual.network, round(float(row["epochs"]), 1), settings
            runs[key].append(1 - float(row["accuracy_holdout_tta"]))
    found: dict[tuple, Point] = {}
    for (*about, settings), errors in runs.items():
        key = tuple(about)
        if key not in found or mean(errors) < found[key].error:
            found[key] = Point(*about, mean(errors), len(errors), settings)
    return sorted(
        found.values(), key=lambda point: (point.dataset, point.held, NETWORKS.index(point.network), point.epochs)
    )


@dataclass(frozen=True)
class Law:
    """`theta`: `irreducible` and log `half_images` of each network, and the log of the exponent.

    `own`: s of each data set, and its d by the number of held-out images.
    """

    theta: np.ndarray
    own: dict[str, tuple[float, dict[int, float]]]

    def __call__(self, dataset: str, held: int, networks: np.ndarray, images: np.ndarray) -> np.ndarray:
        s, d = self.own[dataset]
        return s * shared(self.theta, networks, images) + d[held]


def shared(theta: np.ndarray, networks: np.ndarray, images: np.ndarray) -> np.ndarray:
    count = len(NETWORKS)
    return theta[networks] + np.log1p((np.exp(theta[count + networks]) / images) ** math.exp(theta[-1]))


def fit(measured: list[Point]) -> Law:
    parts = {}
    for dataset in DATASETS:
        own = [point for point in measured if point.dataset == dataset]
        networks = np.array([NETWORKS.index(point.network) for point in own])
        images, errors = np.array([point.images for point in own]), np.log([point.error for point in own])
        # A column for each number of images held out: its d.
        held = sorted({point.held for point in own})
        columns = np.array([[point.held == each for each in held] for point in own], float)
        parts[dataset] = networks, images, errors, np.array([point.weight for point in own]), held, columns

    def law(theta: np.ndarray) -> tuple[Law, float]:
        """With s and d by least squares, CIFAR-10's s being 1; and the sum of squares."""
        own, squares = {}, 0.0
        for dataset, (networks, images, errors, weights, held, columns) in parts.items():
            f, fixed = shared(theta, networks, images), dataset == "cifar10"
            left, free = (errors - f, columns) if fixed else (errors, np.column_stack([f, columns]))
            found = np.linalg.lstsq(free * weights[:, None], left * weights, rcond=None)[0]
            s, *d = [1.0, *found] if fixed else found
            own[dataset] = float(s), dict(zip(held, map(float, d), strict=True))
            squares += float(np.sum(((left - free @ found) * weights) ** 2))
        return Law(theta, own), squares

    start = np.array([0.9, 0.6, 0.3, 0.0, -0.1, -0.15, *[11.0] * len(NETWORKS), 0.0])
    theta = minimize(lambda theta: law(theta)[1], start, method="BFGS").x
    theta[: len(NETWORKS)] -= theta[NETWORKS.index("64")]
    found, squares = law(theta)
    print(f"EXPONENT = {math.exp(theta[-1]):.4f}")
    for at, network in enumerate(NETWORKS):
        print(f"{network}: irreducible {theta[at]:.3f}, half_images {math.exp(theta[len(NETWORKS) + at]):,.0f}")
    print(f"residual over what is expected of chance: {math.sqrt(squares / len(measured)):.2f}")
    return found


def write(measured: list[Point], law: Law) -> None:
    header = ("data set", "images held out", "network", "epochs", "held-out %", "law %", "settings", "n")
    lines = ["# Scaling law: held-out accuracy by network and epochs", "", *table_head(header)]
    for point in measured:
        network, images = np.array([NETWORKS.index(point.network)]), np.array([point.images])
        error = math.exp(law(point.dataset, point.held, network, images)[0])
        lines.append(
            f"| {point.dataset} | {point.held:,} | {point.network} | {point.epochs:g} | {100 * (1 - point.error):.2f} |"
            f" {100 * (1 - error):.2f} | {point.settings} | {point.seeds} |"
        )
    note = (
        "Means of n seeds, with test-time augmentation, on held-out training images."
        " A network's number is its first width or, of the two largest, the per cent that airbench has it for. Of the"
        f" settings that were tried the best, of those with {LEAST_STEPS} steps or more. Machines and versions:"
        " scaling_law.csv and, of 10,000 images, equal_work.csv."
    )
    (RESULTS / "scaling_law.md").write_text("\n".join([*lines, "", note]) + "\n")


def draw(measured: list[Point], law: Law) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    panels = figure.subplot_mosaic([["cifar10", "fashion_mnist"], ["cifar10", "mnist"]], width_ratios=[1.25, 1])
    for dataset, axes in panels.items():
        for at, network in enumerate(NETWORKS):
            own = [point for point in measured if (point.dataset, point.network) == (dataset, network)]
            if not own:
                continue
            # As far from the law of the largest part as they are from that of their own.
            _, d = law.own[dataset]
            part, seen, color = min(d), [point.images for point in own], f"C{at}"
            errors = [100 * point.error * math.exp(d[part] - d[point.held]) for point in own]
            axes.plot(seen, errors, "o", color=color, markersize=5)
            for first, last, style in ((min(seen), max(seen), "-"), (max(seen), LAST, "--")):
                images = np.geomspace(first, last, 50)
                curve = 100 * np.exp(law(dataset, part, np.full(50, at), images))
                axes.plot(images, curve, style, color=color)
            place = {"textcoords": "offset points", "va": "center", "color": color}
            axes.annotate(NAMES[network], (images[-1], curve[-1]), (4, 0), **place)
        first = 40_000 if dataset == "cifar10" else 150_000
        axes.set(xscale="log", yscale="log", xlim=(first, 14_000_000), title=TITLES[dataset])
        axes.grid(alpha=0.3, which="both")
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, place: f"{value:g}")
        ticks = {50_000: "50,000", 200_000: "200,000", 1_000_000: "1 million", LAST: "3 million"}
        axes.set_xticks([tick for tick in ticks if tick > first], [ticks[tick] for tick in ticks if tick > first])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="training images seen, repeats included", ylabel="held-out error in %")
    for style, label in (("o", "runs"), ("-", "the law"), ("--", "beyond the runs")):
        panels["cifar10"].plot([], [], style, color="0.4", label=label)
    panels["cifar10"].legend(loc="lower left")
    figure.suptitle("The larger a network, the fewer errors it tends to, and the more images it needs.")
    figure.savefig(RESULTS / "scaling_law.png", dpi=110)


def main() -> None:
    measured = points()
    law = fit(measured)
    write(measured, law)
    draw(measured, law)


if __name__ == "__main__":
    main()
