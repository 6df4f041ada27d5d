"""Settings of averages of the weights."""

from dataclasses import dataclass

from fastconv.system.settings import SHARE, Range, setting


@dataclass
class Average:
    """An average of the weights over the steps. At the end of training it replaces the weights."""

    kind: str = setting("none", options=("none", "ema", "lookahead"))
    """`none`; `ema` for an exponential moving average, which validations score too; `lookahead` for slow weights, to
    which the learning weights are reset at each update."""
    update_interval: int = setting(5, Range("a number of steps", 1, 1e6))
    """Optimizer steps between two updates of the average."""
    decay: float = setting(0.95, SHARE)
    """Share of the average, in [0, 1), that remains after each step; `lookahead` reaches this value at the end."""
