"""The tables that a run prints: its plan before it starts, and its result."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from fastconv.budget.hardware import direct_because
from fastconv.config.deadline import BoundedBudget
from fastconv.config.schema import SEGMENTS
from fastconv.data.splits import Splits
from fastconv.kernels import norm_gelu, winograd_speed
from fastconv.models.configs import Pretrained
from fastconv.runs.results import OBJECTIVES, Results
from fastconv.system.names import printable
from fastconv.system.urls import redacted
from fastconv.system.wording import agreeing, counted, measured
from fastconv.training.plan import Run

# The plan says how much of the budget is spent before training if it is more than this share.
SHOWN_SPENT = 0.2
# Balanced accuracy is shown if it differs from accuracy by more than this.
SHOWN_DIFFERENCE = 0.005
# Cohen's kappa below which a result is as good as guessing: a twentieth of the way from chance to all right.
CHANCE_KAPPA = 0.05
# The plan says so if the largest class has this many times as many training images as the smallest.
IMBALANCE = 10


def plan_table(run: Run, reasons: Mapping[str, str]) -> Table:
    """The plan of a run as a table.

    Args:
        reasons: the reason for each automatic choice, by its name.
    """
    config, device, plan = run.config, run.device, run.plan
    rows = {
        "dataset": f"{config.dataset.name}: {_images(run)}",
        "model": f"{config.model.name}: {run.parameters:,} parameters",
        **({"weights": _weights(config.model, run)} if isinstance(config.model, Pretrained) else {}),
        "batch": counted(config.batch_size, "image")
        + f" in parts of {config.micro_batch_size}" * (config.micro_batch_size < config.batch_size),
        "device": device.name + f", {config.trainer.world} ranks" * (config.trainer.world > 1),
        "step": _step(run),
        "speed": f"{config.batch_size / run.speed.step_seconds:,.0f} images/s (benchmark)",
        "budget": _budget(run),
        "expected": f"{plan.epochs:.1f} epochs, {counted(plan.steps, 'step')} in {plan.seconds:,.0f} s",
        "stream": _stream(run),
    }
    if run.speed.memory_mb:  # Windows does not say
        rows["memory"] = f"about {run.speed.memory_mb / 1e3:.1f} GB" + " on the GPU" * (device.kind != "cpu")
    rows["outputs"] = redacted(config.outputs)
    rows |= _machine_warnings(run) | _class_rows(run) | image_warnings(run)
    rows |= {f"chosen: {choice}": reason for choice, reason in reasons.items()}
    return _table("plan", rows)


def _images(run: Run) -> str:
    """The number and the size of the images, and what they are for."""
    spec, count = run.spec, len(run.train)
    height, width, channels = spec.shape
    line = f"{counted(count, 'training image')} {width}x{height}x{channels}, {counted(len(spec.classes), 'class')}"
    if spec.samples != count:
        line += f"; {spec.samples:,} of them in each epoch"
    if len(run.unseen) > len(run.holdout):
        line += f"; {len(run.unseen):,} others to fit the temperature on"
    return line


def _budget(run: Run) -> str:
    """The seconds, what counts to them, and the most epochs."""
    budget, most = run.config.budget, run.config.schedule.max_epochs
    segments = "everything up to the result" if set(budget.counts) == set(SEGMENTS) else " + ".join(budget.counts)
    line = "no time limit" if budget.seconds is None else f"{budget.seconds:g} s for {segments}"
    spent = run.clock.counted(tuple(budget.counts))
    if budget.seconds is not None and spent > SHOWN_SPENT * budget.seconds:
        line += f", of which {spent:.1f} s are already spent"
    if isinstance(budget, BoundedBudget):
        line += f", to be over by {budget.ends}"
    return f"{line}; " + ("as many epochs as fit" if most is None else f"at most {measured(most, 'epoch')}")


def _stream(run: Run) -> str:
    """Where the augmented images come from."""
    stream, plan = run.config.stream, run.plan
    if plan.stream_epochs:
        size = plan.stream_epochs * run.spec.epoch_bytes / 1e6
        line = f"{counted(plan.stream_epochs, 'epoch')}, {size:,.0f} MB in {redacted(stream.root)}"
        return line + "; the others augmented while training" * (plan.stream_epochs < plan.epochs - 1e-9)
    line = "augmented while training"
    if stream.mode == "device":
        size = run.train.images.nbytes / 1e6
        line += f" on the {'CPU' if run.device.kind == 'cpu' else 'GPU'}, which holds the images ({size:,.1f} MB)"
    return line


def _step(run: Run) -> str:
    """The settings by which the device computes a step of training."""
    device = run.device
    parts = [device.precision, "channels_last" if run.config.trainer.channels_last else "contiguous"]
    parts += [counted(device.threads, "thread")] * (device.kind == "cpu")
    parts += ["keeps freed memory"] * device.keep_memory
    parts += ["compiled"] * device.compile
    parts += ["one CUDA graph"] * run.graph
    parts += [f"Winograd in {counted(run.winograd_layers, 'convolution')}"] * (run.winograd_layers > 0)
    return ", ".join(parts)


def _machine_warnings(run: Run) -> dict[str, str]:
    """Warnings of what makes the training slower than it could be."""
    device, trainer, rows = run.device, run.config.trainer, {}
    if run.seems_busy:
        rows["busy"] = (
            "the machine seems busy with other work: its speed changes while it is measured, or hardly a step fits into"
            " the budget. The run adapts to the time that it gets"
        )
    # In bf16, torch's own are fast enough on many processors, such as those with AMX.
    has_use = device.kind == "cpu" and (device.precision == "fp32" or winograd_speed.is_measured(device.dtype))
    if trainer.winograd == "auto" and has_use and not device.winograd:
        why = direct_because(device.kind, device.precision, trainer)
        rows["convolutions"] = f"no Winograd convolutions: {why}"
    elif device.winograd and (why := norm_gelu.obstacle(device.dtype)):
        rows["activations"] = f"norms and activations are computed by torch, one after the other: {why}"
    if run.no_graph:
        rows["graph"] = f"no CUDA graph of the step: {run.no_graph}"
    return rows


def image_warnings(run: Run) -> dict[str, str]:
    """Warnings of images that were left out, classes without images of a split, and test images to train on."""
    rows, classes = {}, run.spec.classes
    if run.train.note:
        rows["note"] = run.train.note
    for row, split, kind in (("not trained", run.train, "training"), ("not tested", run.test, "test")):
        counts = np.bincount(split.labels, minlength=len(classes))
        if absent := [name for name, count in zip(classes, counts, strict=True) if not count]:
            have = agreeing(len(absent), "has", "have")
            rows[row] = f"{len(absent)} of {len(classes)} classes {have} no {kind} images, such as {absent[0]}"
    if leak := Splits(run.train, run.holdout, run.test).leak:
        rows["leak"] = f"{leak}: the accuracy will be too high. python -m fastconv.audit shows which"
    return rows


def _weights(model: Pretrained, run: Run) -> str:
    """The weights that a pretrained network starts from, and the layers that are trained."""
    name = run.pretrained
    if model.mode == "head":
        return f"{name}; only the last layer is trained"
    return (
        f"{name}; the last layer is trained for {model.head_share:.0%} of the run, then all layers, with a learning"
        f" rate of {model.backbone_lr_scale * model.first_lr_scale:g} (first) to {model.backbone_lr_scale:g} times the"
        " last one's"
    )


def _class_rows(run: Run) -> dict[str, str]:
    """The objective, if it is not accuracy, or a warning where another one is advisable."""
    objective, counts = run.config.objective, np.bincount(run.train.labels, minlength=len(run.spec.classes))
    names = [f"class {name}" for name in run.spec.classes]
    most, least = int(counts.argmax()), int(np.where(counts, counts, counts.max()).argmin())
    if objective != "accuracy":
        line = f"{objective}, so each epoch has as many images of one class as of another"
        if run.train.sampling:
            classes = np.count_nonzero(counts)
            often = [run.spec.samples / classes / counts[at] for at in (least, most)]
            line += (
                f": an image of {names[least]} (of {counts[least]:,}) comes {often[0]:.3g} times, one of {names[most]}"
                f" (of {counts[most]:,}) {often[1]:.2g} times"
            )
        return {"objective": line}
    if counts[most] < IMBALANCE * counts[least]:
        return {}
    return {
        "imbalance": f"{names[most]} has {counted(int(counts[most]), 'training image')}, {names[least]} has"
        f" {counts[least]:,}: objective=balanced_accuracy lets both count the same"
    }


def results_table(results: Results, folder: Path) -> Table:
    """The results of a run whose network is scored, and the run's folder, as a table."""
    assert results.accuracy is not None
    assert results.balanced_accuracy is not None
    speed = "" if results.images_per_second is None else f" at {results.images_per_second:,.0f} images/s"
    waited = results.dataloader_wait_fraction
    rows = {
        "accuracy": f"{results.accuracy:.2%} of the test images"
        + f", of which there was no time to score {results.test_skipped:,}" * (results.test_skipped > 0)
        + f" (loss {results.loss:.4f});"
        f" {results.accuracy_tta:.2%} with test-time augmentation"
        + f", for which there was no time on {results.tta_skipped:,} of them"
        * (results.tta_skipped > 0),
        "training": f"{results.epochs:.2f} epochs, {counted(results.steps or 0, 'step')}{speed}",
        "ended by": str(results.stop_reason),
        "budget": f"{results.seconds_counted:.1f} s counted"
        + (f" of {results.budget_seconds:g} s" if results.budget_seconds else ""),
        "seconds": "  ".join(f"{name} {spent:.1f}" for name, spent in results.seconds.items() if spent >= 0.05),
        "waiting for data": "unknown" if waited is None else f"{waited:.2%} of the training time",
    }
    if results.expected_calibration_error_unscaled is not None:
        rows["calibration"] = (
            f"confidence and accuracy differ by {results.expected_calibration_error:.3f} (expected calibration error);"
            f" by {results.expected_calibration_error_unscaled:.3f} before temperature scaling"
        )
    judged = results.hparams.get("objective") in OBJECTIVES[1:]  # by another result than accuracy
    if judged or abs(results.balanced_accuracy - results.accuracy) > SHOWN_DIFFERENCE:
        rows["class by class"] = f"balanced accuracy {results.balanced_accuracy:.2%}, macro F1 {results.macro_f1:.3f}"
    if results.kappa is not None and results.kappa < CHANCE_KAPPA:
        rows["warning"] = (
            f"this is hardly better than guessing (Cohen's kappa {results.kappa:.2f}, 0 is chance): the network has"
            f" learned nothing in {counted(results.steps or 0, 'step')}. Give it more time, or a smaller model"
            + ", or experiment=best, which chooses one"
            * (results.experiment != "best")
        )
    if results.accuracy_holdout is not None:
        rows["held-out part"] = f"{results.accuracy_holdout:.2%}; {results.accuracy_holdout_tta:.2%}"
        if judged:
            rows["held-out part"] += (
                f"; balanced accuracy {results.balanced_accuracy_holdout:.2%}, macro F1 {results.macro_f1_holdout:.3f}"
            )
    if results.pretrained:
        rows["pretrained"] = f"it began with the weights {results.pretrained}"
    rows |= {"run": str(folder), "dashboard": f"tensorboard --logdir {shlex.quote(str(folder))}"}
    return _table("result", rows)


def _table(title: str, rows: Mapping[str, str]) -> Table:
    """A table of two columns; what would be markup in it is shown as it is."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path is shown whole
    for name, value in rows.items():
        table.add_row(name, escape(printable(value)))
    return table
