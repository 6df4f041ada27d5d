"""fastconv: how good an image classifier can you have in 1000 seconds, on the machine you have?"""

from typing import TYPE_CHECKING, Any

from fastconv.system import process as _process  # notes the time  # noqa: F401

if TYPE_CHECKING:
    from fastconv.analysis.predictor import load as load
    from fastconv.api import fit as fit

__version__ = "0.1.0"
__all__ = ["fit", "load"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that commands start without torch.
    if name == "fit":
        from fastconv.api import fit

        return fit
    if name == "load":
        from fastconv.analysis.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
