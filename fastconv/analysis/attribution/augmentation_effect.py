"""The effect of augmentation: a report for each data set that compares a sweep's runs with and without it."""

import json
from pathlib import Path

from rich.console import Console

from fastconv.analysis.attribution.experiment import explain_runs
from fastconv.analysis.attribution.report import write_report
from fastconv.analysis.checkpoint import TrainedRun, load_run
from fastconv.config.overrides import compose
from fastconv.config.run_settings import hparams
from fastconv.config.typed_config import typed
from fastconv.runs.folder import is_finished
from fastconv.runs.hparams import is_augmented, is_seed
from fastconv.system.errors import InputError
from fastconv.system.terminal import plain_console


def explain_sweep(
    sweep: Path, data: str, settings: tuple[str, ...] = (), console: Console | None = None, trust: bool = True
) -> dict[str, Path]:
    """Pair the finished runs of a sweep that differ only in their augmentation, and write reports to its folder.

    Args:
        sweep: the sweep's folder, with one folder for each run.
        data: folder of the data sets.
        settings: overrides of `fastconv.explain`.
        trust: run the code that the runs' files name, and open their URLs: the user's own sweep made them.

    Returns the reports' folders, by data set. Raises InputError if there are no such pairs.
    """
    console = console or plain_console()
    folders = sorted(
        (path.parent for path in sweep.glob("*/config.yaml")), key=lambda path: (len(path.name), path.name)
    )
    finished = [load_run(folder, trust) for folder in folders if is_finished(folder)]
    groups = pairs(finished)
    if not groups:
        raise InputError(
            f"{sweep} has no finished runs that differ only in their augmentation: sweep over augment=none,standard"
        )
    paired = [run.folder for pairing in groups.values() for group in pairing for run in group]
    for folder in folders:
        if folder not in paired:
            console.print(f"left out of the report: {folder}, which is not finished or has no partner of the same seed")
    for name, (plain, augmented) in groups.items():
        config = typed("explain", compose("explain", ["run=-", f"trust={str(trust).lower()}", *settings]), [])
        config.run, config.against = ([str(run.folder) for run in group] for group in (plain, augmented))
        config.data = data
        for line in write_report(explain_runs(config, console), config, sweep / f"explain-{name}"):
            console.print(line)
    return {name: sweep / f"explain-{name}" for name in groups}


def pairs(runs: list[TrainedRun]) -> dict[str, tuple[list[TrainedRun], list[TrainedRun]]]:
    """Pair runs without augmentation with runs with it, by the name of their data set.

    A run that has no partner with the same seed is left out.
    """
    plain: dict[str, dict[int, TrainedRun]] = {}
    augmented: dict[tuple[str, str], dict[int, TrainedRun]] = {}  # by the other settings and those of augmentation
    for run in runs:
        values = hparams(run.config)
        policy = {key: value for key, value in values.items() if key.partition(".")[0] == "augment"}
        others = {key: value for key, value in values.items() if key not in policy and not is_seed(key)}
        texts = json.dumps(others, sort_keys=True), json.dumps(policy, sort_keys=True)
        group = augmented.setdefault(texts, {}) if is_augmented(values) else plain.setdefault(texts[0], {})
        group.setdefault(run.config.seed, run)
    found: dict[str, tuple[list[TrainedRun], list[TrainedRun]]] = {}
    for (common, _), group in augmented.items():
        seeds = [seed for seed in group if seed in plain.get(common, {})]
        if seeds:
            name = plain[common][seeds[0]].config.dataset.name
            key = name if name not in found else f"{name}-{len(found) + 1}"
            found[key] = [plain[common][seed] for seed in seeds], [group[seed] for seed in seeds]
    return found
