"""Suggests the key that a mistyped or foreign one was meant to be, or none."""

from collections.abc import Sequence

from fastconv.system.errors import nearest

# Keys that mean the same elsewhere, with ours. Of the keys of a command only those are suggested that it has.
SYNONYMS = {
    "schedule.max_epochs": ("epoch", "epochs", "num_epochs", "n_epochs", "schedule.epoch"),
    "optimizer.max_lr": ("lr", "learning_rate", "learningrate", "optimizer.lr", "schedule.max_lr", "base_lr"),
    "optimizer.weight_decay": ("wd", "decay", "l2"),
    "batch_size": ("batch", "batchsize", "bs", "dataset.batch", "train_batch_size"),
    "budget.seconds": ("time", "time_limit", "timeout", "max_time", "budget.time"),
    "budget.counts": ("budget.count",),
    "trainer.precision": ("amp", "fp16", "bf16", "dtype", "mixed_precision"),
    "trainer.accelerator": ("accelerator", "device"),
    "trainer.devices": ("gpus", "num_gpus", "n_gpus"),
    "trainer.num_threads": ("threads", "cpus", "num_cpus"),
    "model": ("net", "network", "arch", "architecture", "backbone"),
    "augment": ("aug", "augmentation", "augmentations", "transform", "transforms"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule"),
    "optimizer": ("optim", "opt"),
    "average": ("ema", "swa", "lookahead"),
    "dataset.holdout": ("val_split", "validation_split", "holdout"),
    "seed": ("random_seed", "random_state"),
    "outputs": ("output", "output_dir", "out_dir", "save_dir"),
    "out": ("output", "output_file"),
    "images": ("image", "input", "inputs", "file", "files"),
    "run": ("checkpoint", "ckpt", "weights", "model"),
    "runs": ("run",),
}
# A key is suggested if it is as alike as this (difflib's ratio). At 0.76 all mistypings of the tests
# are found and no foreign word gets a suggestion; at 0.75 `path` got `part`, at 0.5 `lr` got `logger`.
CUTOFF = 0.76
# Letters that a last part which is written alone must have: `size` or `mode` could be part of any key.
LETTERS = 5


def suggestion(key: str, known: Sequence[str]) -> str:
    """`; did you mean X?` for the one of the `known` keys that is meant, or a full stop if there is none."""
    word = key.lower().replace("-", "_")
    for ours, others in SYNONYMS.items():
        if word in others and ours in known:
            return f"; did you mean {ours}?"
    if len(word) >= LETTERS:
        whole = [each for each in known if each.rpartition(".")[2] == word]
        if len(whole) == 1:
            return f"; did you mean {whole[0]}?"
    return nearest(word, known, CUTOFF)
