"""The range of every number that can be set.

A rule is what the user reads, and its interval what is checked. Each number has one, so that what is not finite, or so
large that nothing could come of it, ends with a line and not with a crash or a network of nan.
"""

import re
from operator import attrgetter
from typing import Any

from fastconv.system.errors import InputError

BATCH = "a whole number of images in [2, 2**20]: one image has no statistics"
PIXELS = "a number of pixels in [0, 10000]"
SEED = "a whole number in [0, 2**63)"

RANGES = {
    "seed": "a whole number in [0, 2**32)",
    "dataset.batch_size": BATCH,
    "batch_size": BATCH,
    "model.micro_batch_size": BATCH,
    "micro_batch_size": BATCH,
    "data_pruning": "a share in [0, 0.5)",
    "label_smoothing": "a share in [0, 1)",
    "dataset.holdout": "a share in [0, 1)",
    "dataset.holdout_seed": SEED,
    "dataset.image_size": "a number of pixels in [8, 1024], or null for that of the images",
    "dataset.test_share": "a share in (0, 1)",
    "dataset.split_seed": SEED,
    "dataset.flip": "a chance in [0, 1]",
    "dataset.crop_padding": PIXELS,
    "dataset.cutout_size": PIXELS,
    "augment.crop.padding": PIXELS,
    "augment.flip.probability": "a chance in [0, 1]",
    "augment.cutout.size": PIXELS,
    "augment.color_jitter.brightness": "a share in [0, 1]",
    "augment.color_jitter.contrast": "a share in [0, 1]",
    "augment.num_ops": "a number of operations in [1, 16]",
    "augment.magnitude": "a strength in [0, 30]",
    # 16 times the published width are 256 times the parameters.
    "model.width": "a number of filters in [1, 1024]",
    "model.logits_scale": "a factor in [1e-6, 1000]",
    "model.widths": "numbers of filters in [1, 4096]",
    "model.convs": "a number of convolutions in [1, 16]",
    "model.whitening_kernel": "a number of pixels in [1, 8], or null",
    "model.norm_momentum": "a share in (0, 1]",
    "optimizer.max_lr": "a number in (0, 1000]",
    "optimizer.momentum": "a number in [0, 1)",
    "optimizer.weight_decay": "a number in [0, 1000]",
    "optimizer.bias_lr_scale": "a factor in (0, 1e6]",
    "optimizer.whiten_bias_fraction": "a share in (0, 1]",
    "optimizer.beta2": "a number in [0, 1)",
    "optimizer.eps": "a number in (0, 1]",
    "optimizer.newton_schulz_steps": "a number of steps in [1, 100]",
    "optimizer.bias_lr": "a number in (0, 1000]",
    "optimizer.head_lr": "a number in (0, 1000]",
    "optimizer.sgd_momentum": "a number in [0, 1)",
    "schedule.max_epochs": "a number of epochs in (0, 1e6], or null for no bound",
    "schedule.pct_start": "a share in [0.001, 0.999]",
    "schedule.base_momentum": "a number in [0, 1)",
    "schedule.max_momentum": "a number in [0, 1)",
    "schedule.div_factor": "a factor in [1, 1e9]: the peak is the highest learning rate",
    "schedule.final_div_factor": "a factor in (0, 1e9]",
    "schedule.warmup": "a share in [0, 1)",
    "schedule.min_lr_ratio": "a share in [0, 1]",
    "schedule.milestones": "shares in (0, 1)",
    "schedule.gamma": "a factor in (0, 1]",
    "average.update_interval": "a number of steps in [1, 1e6]",
    "average.decay": "a share in [0, 1)",
    "stream.seed": SEED,
    "stream.epochs": "a number of epochs in [1, 1e6], or null for as many as the run needs",
    "stream.max_gb": "a number of gigabytes in [0, 1e9]",
    "trainer.devices": "a number of devices in [1, 1024]",
    "trainer.num_threads": "a number of threads in [1, 1024], or null for torch's choice",
    "budget.seconds": "a number of seconds in (0, 1e9], or null for no limit",
    "tta.shift": "a number of pixels in [0, 1000]",
    "tta.confidence_threshold": "a probability in (0, 1]",
    "checkpoint.every": "a number of seconds in (0, 1e9], or null for none but the first and the last",
    "validate.every": "a number of epochs in (0, 1e6]",
    "validate.samples": "a number of images in [1, 1e9], or null for all",
    "range_test.min_lr": "a number in (0, 1000]",
    "range_test.max_lr": "a number in (0, 1000]",
    "range_test.steps": "a number of steps in [20, 100000]",
    "range_test.early_stop_threshold": "a factor in (1, 1e9], or null to go on whatever the loss is",
    "samples": "a number of images in [1, 1e6]",
    "top": "a number of classes in [1, 100000]",
    "per_class": "a number of images in [1, 1e6]",
    "errors": "a number of images in [0, 1e6]",
    "correct": "a number of images in [0, 1e6]",
    "candidates": "a number of images in [1, 1e9]",
    "steps": "a number of parts in [1, 1000]",
    "perturbations": "a number of squares in [2, 1000]",
    "control_images": "a number of images in [2, 1e6]",
    "sensitivity_images": "a number of images in [1, 1e6]",
    "noise_samples": "a number of noisy copies in [0, 1000]",
    "noise": "a share of the range of pixel values in [0, 10]",
    "window": "a share of the image's side in (0, 1]",
}


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise InputError, naming the key after `prefix`, for the first number of a config that is out of its range."""
    for key, rule in RANGES.items():
        group, _, name = key.partition(".")
        if name in getattr(getattr(config, group, None), "free", ()):  # an argument of a user's own component
            continue
        try:
            value = attrgetter(key)(config)
        except AttributeError:  # a key of another schedule
            continue
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (isinstance(number, int | float) and within(number, rule)):
                raise InputError(f"{prefix}{key}={value} is not possible: give {rule}")


def within(number: float, rule: str) -> bool:
    """Whether a number lies in the interval that a rule names, such as `[0, 2**32)`."""
    opening, low, high, closing = re.search(r"([\[(])(\S+), (\S+?)([\])])", rule).groups()
    base, _, power = high.partition("**")
    low, high = float(low), float(base) ** int(power or 1)
    return (low <= number if opening == "[" else low < number) and (number <= high if closing == "]" else number < high)
