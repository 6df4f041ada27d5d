"""Fit the law of `fastconv.ladder` to benchmarks/results/ladder.csv: python benchmarks/fit_ladder.py

Prints the numbers to put there, and makes benchmarks/results/ladder.md and ladder.png of the runs and the law.
"""

import math
from dataclasses import dataclass

import numpy as np
from measurements import RESULTS, read
from scipy.optimize import minimize

NETWORKS = ("8", "16", "32", "64", "95", "96")
DATASETS = {"cifar10": (45_000, 5000), "fashion_mnist": (54_000, 6000), "mnist": (54_000, 6000)}  # trained on, held out
# With fewer steps a run shows what steps are worth, not images.
LEAST_STEPS = 80
# What two runs' logarithms of the error differ by, beside what their held-out images leave open.
SPREAD = 0.03


@dataclass(frozen=True)
class Point:
    """The best of the recipes that were tried with a data set, a network and a number of epochs."""

    dataset: str
    network: str
    epochs: float
    error: float
    recipe: str

    @property
    def images(self) -> float:
        return self.epochs * DATASETS[self.dataset][0]

    @property
    def weight(self) -> float:
        """One over the standard deviation of the logarithm of the error."""
        return ((1 - self.error) / (DATASETS[self.dataset][1] * self.error) + SPREAD**2) ** -0.5


def points() -> list[Point]:
    found: dict[tuple[str, str, float], Point] = {}
    for row in read(RESULTS / "ladder.csv"):
        if int(row["steps"]) < LEAST_STEPS or "max_lr" in row["settings"] or "flip" in row["settings"]:
            continue
        error, epochs = 1 - float(row["accuracy_holdout_tta"]), float(row["epochs"])
        recipe = f"{row['augment']} {row['settings']}".strip()
        point = Point(row["dataset"], row["network"], epochs, error, recipe)
        key = point.dataset, point.network, point.epochs
        if key not in found or error < found[key].error:
            found[key] = point
    return sorted(found.values(), key=lambda point: (point.dataset, NETWORKS.index(point.network), point.epochs))


@dataclass(frozen=True)
class Law:
    """Floors and images of each network, and the exponent; then each data set's own s and d."""

    theta: np.ndarray
    own: dict[str, tuple[float, float]]

    def __call__(self, dataset: str, networks: np.ndarray, images: np.ndarray) -> np.ndarray:
        s, d = self.own[dataset]
        return s * shared(self.theta, networks, images) + d


def shared(theta: np.ndarray, networks: np.ndarray, images: np.ndarray) -> np.ndarray:
    count = len(NETWORKS)
    return theta[networks] + np.log1p((np.exp(theta[count + networks]) / images) ** math.exp(theta[-1]))


def fit(measured: list[Point]) -> Law:
    parts = {}
    for dataset in DATASETS:
        own = [point for point in measured if point.dataset == dataset]
        networks = np.array([NETWORKS.index(point.network) for point in own])
        images, errors = np.array([point.images for point in own]), np.log([point.error for point in own])
        parts[dataset] = networks, images, errors, np.array([point.weight for point in own])

    def law(theta: np.ndarray) -> tuple[Law, float]:
        """With s and d by least squares, CIFAR-10's s being 1; and the sum of squares."""
        own, squares = {}, 0.0
        for dataset, (networks, images, errors, weights) in parts.items():
            f = shared(theta, networks, images)
            s, d = (1.0, np.average(errors - f, weights=weights**2)) if dataset == "cifar10" else np.polyfit(
                f, errors, 1, w=weights
            )  # fmt: skip
            own[dataset] = float(s), float(d)
            squares += float(np.sum(((errors - s * f - d) * weights) ** 2))
        return Law(theta, own), squares

    start = np.array([0.9, 0.6, 0.3, 0.0, -0.1, -0.15, *[11.0] * len(NETWORKS), 0.0])
    theta = minimize(lambda theta: law(theta)[1], start, method="BFGS").x
    theta[: len(NETWORKS)] -= theta[NETWORKS.index("64")]
    found, squares = law(theta)
    print(f"LEARNING = {math.exp(theta[-1]):.4f}")
    for at, network in enumerate(NETWORKS):
        print(f"{network}: floor {theta[at]:.3f}, images {math.exp(theta[len(NETWORKS) + at]):,.0f}")
    print(f"residual over what is expected of chance: {math.sqrt(squares / len(measured)):.2f}")
    return found


def write(measured: list[Point], law: Law) -> None:
    lines = ["# What networks learn", "", "| data set | network | epochs | held-out % | law % | recipe |",
             "|" + " --- |" * 6]  # fmt: skip
    for point in measured:
        error = math.exp(law(point.dataset, np.array([NETWORKS.index(point.network)]), np.array([point.images]))[0])
        lines.append(
            f"| {point.dataset} | {point.network} | {point.epochs:g} | {100 * (1 - point.error):.2f} |"
            f" {100 * (1 - error):.2f} | {point.recipe} |"
        )
    note = (
        "One seed each, with test-time augmentation, on held-out training images: 5,000 or 6,000."
        " A network's number is its first width or, of the two largest, the per cent that airbench has it for. Of the"
        f" recipes the best, of those with {LEAST_STEPS} steps or more. Machines and versions: ladder.csv."
    )
    (RESULTS / "ladder.md").write_text("\n".join([*lines, "", note]) + "\n")


def draw(measured: list[Point], law: Law) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, dataset in zip(figure.subplots(1, len(DATASETS)), DATASETS, strict=True):
        for at, network in enumerate(NETWORKS):
            own = [point for point in measured if (point.dataset, point.network) == (dataset, network)]
            if not own:
                continue
            axes.plot([p.images for p in own], [100 * p.error for p in own], "o", color=f"C{at}", label=network)
            images = np.geomspace(own[0].images, own[-1].images, 50)
            axes.plot(images, 100 * np.exp(law(dataset, np.full(50, at), images)), color=f"C{at}", alpha=0.6)
        axes.set(xscale="log", yscale="log", xlabel="images seen", ylabel="error in %", title=dataset)
        axes.grid(alpha=0.3, which="both")
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, place: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
    figure.axes[0].legend(title="network")
    figure.savefig(RESULTS / "ladder.png", dpi=110)


def main() -> None:
    measured = points()
    law = fit(measured)
    write(measured, law)
    draw(measured, law)


if __name__ == "__main__":
    main()
