"""fastconv: how good an image classifier can you have in 1000 seconds, on the machine you have?"""

from typing import TYPE_CHECKING, Any

from fastconv.system import process as _process  # notes the time  # noqa: F401
from fastconv.system import terminal as _terminal

if TYPE_CHECKING:
    from fastconv.analysis.predictor import Predictions as Predictions
    from fastconv.api import fit as fit
    from fastconv.predictor import Predictor as Predictor
    from fastconv.predictor import load as load

if _terminal.is_module_of("fastconv"):
    _terminal.say_of_interrupts()  # the imports of a command may take seconds

__version__ = "0.1.0"
__all__ = ["Predictions", "Predictor", "fit", "load"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    # Imported on first use, so that commands start without torch.
    if name == "fit":
        from fastconv.api import fit

        return fit
    if name in ("Predictor", "load"):
        from fastconv import predictor

        return getattr(predictor, name)
    if name == "Predictions":
        from fastconv.analysis.predictor import Predictions

        return Predictions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
