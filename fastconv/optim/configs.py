"""Settings of averages of the weights."""

from dataclasses import dataclass


@dataclass
class Average:
    """An average of the weights over the steps, which is what is tested and saved in the end."""

    kind: str = "none"
    """`none`; `ema`: an exponential moving average, of which validations are too; `lookahead`: slow weights, from which
    the learning ones begin anew each time."""
    update_interval: int = 5
    """Optimizer steps between two times that the average takes the weights in."""
    decay: float = 0.95
    """Share of the average that each step leaves; with `lookahead` at the end of the run, and less before."""
