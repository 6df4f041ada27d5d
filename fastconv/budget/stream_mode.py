"""Chooses the stream of `stream=auto`: on a GPU that holds the images there is nothing to precompute."""

from fastconv.budget.autotune.settings import AUTOTUNE, Autotune
from fastconv.budget.hardware import Device
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData


def choose_stream(config: Config, train: ImageData, device: Device, settings: Autotune = AUTOTUNE) -> tuple[str, str]:
    """Return `device` or `precomputed`, and the reason; on a CPU and an Apple GPU, always `precomputed`, without one.

    Shards stay what they are for if the command asks for them: by `stream.epochs`, or a server in `stream.root`.

    Args:
        config: a config with `stream=auto`.
        train: the training images.
        device: the device that trains.

    Raises InputError for a transform in `augment.extra` that cannot be made.
    """
    if device.kind != "cuda":  # on an Apple GPU nobody has measured it
        return "precomputed", ""
    if config.stream.is_remote or config.stream.epochs is not None:
        return "precomputed", "precomputed, as stream.root is a server or stream.epochs is set"
    if names := config.augment.only_on_host():
        return "precomputed", f"precomputed, as {' and '.join(names)} can only be computed on the host"
    needed, free, share = train.images.nbytes, device.free_memory(), settings.device_stream_share
    if free is None or needed > share * free:
        return "precomputed", (
            f"precomputed, as the images need {needed / 1e9:.3g} GB, more than {share:.0%} of the GPU's free memory"
        )
    return "device", f"device, as the images need no more than {share:.0%} of the GPU's free memory"
