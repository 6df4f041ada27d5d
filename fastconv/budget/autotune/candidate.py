"""A candidate of autotune."""

from dataclasses import dataclass

from fastconv.budget.benchmark import SpeedProfile
from fastconv.models.configs import TTA, Network


@dataclass(frozen=True)
class Candidate:
    """A network, and how it would be trained and scored in the budget.

    Args:
        network: its settings.
        speed: its measured or estimated speed profile.
        image_seconds: seconds of forward and backward pass per image.
        images: images that it would see, repeats included; those after `Candidates.max_images` do not count.
        batch_size: images per optimizer step.
        tta: views in which the images are scored.
        flip: share of the training images that are flipped, in [0, 1].
        resizing: share of the training, in [0, 1), in which images are small.
    """

    network: Network
    speed: SpeedProfile
    image_seconds: float
    images: float
    batch_size: int
    tta: TTA
    flip: float
    resizing: float = 0.0

    @property
    def step_seconds(self) -> float:
        """Seconds of an optimizer step with whole images."""
        return self.image_seconds * self.batch_size + self.speed.update_seconds
