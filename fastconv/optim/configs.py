"""Settings of averages of the weights."""

from dataclasses import dataclass

from fastconv.system.settings import SHARE, Range, setting


@dataclass
class Average:
    """An average of the weights over the steps, which is what is tested and saved in the end."""

    kind: str = setting("none", options=("none", "ema", "lookahead"))
    """`none`; `ema`: an exponential moving average, of which validations are too; `lookahead`: slow weights, from which
    the learning ones begin anew each time."""
    update_interval: int = setting(5, Range("a number of steps", 1, 1e6))
    """Optimizer steps between two times that the average takes the weights in."""
    decay: float = setting(0.95, SHARE)
    """Share of the average that each step leaves; with `lookahead` at the end of the run, and less before."""
