"""Keeps what the compiler made of a training step for the next run, which then compiles in seconds.

It is code, so it lies in the user's cache, where the libraries of `fastconv.kernels` do, and not beside the benchmarks
in a folder of data, which may come from somebody else.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import torch

from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.hardware import Device
from fastconv.config.schema import Config
from fastconv.kernels.library import is_own_file, private_folder
from fastconv.models import model_settings
from fastconv.system.errors import InputError
from fastconv.system.files import read_file, write_atomically

# Bytes of the hexadecimal sha256 that a file begins with, and of a file at most: a step takes a few megabytes.
DIGEST_BYTES, MOST_BYTES = 64, 2**30


def compiled_file(config: Config, shape: tuple[int, ...], classes: int, device: Device) -> Path | None:
    """The file of a run's compiled step, which need not be there; None where a file would not be the user's alone.

    torch itself checks that what is in the file fits the step, so the name need only tell most steps apart.

    Args:
        shape: height, width and channels of an image.
        classes: number of classes.
    """
    if os.name != "posix":
        return None
    about = [config.model.name, model_settings(config.model), shape, classes, config.micro_batch_size,
             config.trainer.channels_last, config.label_smoothing, device.name, device.precision,
             torch.__version__]  # fmt: skip
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    with contextlib.suppress(OSError):
        if folder := private_folder():
            return folder / f"step-{digest[:16]}.bin"
    return None


def is_kept(path: Path | None) -> bool:
    """Whether a compiled step is kept there, in a file of the user's own."""
    with contextlib.suppress(OSError):
        return path is not None and is_own_file(path)
    return False


def load_compiled(path: Path) -> bool:
    """Give torch's compiler what it made before; return False if the file is missing, damaged or not the user's own.

    Raises nothing.
    """
    try:
        if not is_own_file(path):
            return False
        content = read_file(path, MOST_BYTES)
        digest, artifacts = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(artifacts).hexdigest().encode() != digest:
            return False
        return torch.compiler.load_cache_artifacts(artifacts) is not None
    except Exception:  # whatever it is, the step can be compiled
        return False


def keep_compiled(path: Path) -> None:
    """Write what torch's compiler has made in this process. Where that is not possible, the next run compiles anew."""
    with contextlib.suppress(OSError, InputError):
        if made := torch.compiler.save_cache_artifacts():
            artifacts = made[0]
            write_atomically(path, hashlib.sha256(artifacts).hexdigest().encode() + artifacts)
            path.chmod(0o600)


def compiling_pays(config: Config, path: Path | None, settings: Autotune = AUTOTUNE) -> bool:
    """Whether a compiled step saves more of the budget than compiling takes.

    Args:
        path: the file in which it may be kept.
    """
    if config.budget.seconds is None or "compile" not in config.budget.counts:
        return True
    seconds = settings.compile_kept_seconds if is_kept(path) else settings.compile_seconds
    return settings.compile_saves * config.budget.seconds > seconds
