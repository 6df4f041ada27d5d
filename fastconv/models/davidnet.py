"""DavidNet, the 9-layer residual network that won DAWNBench (David Page, "How to train your ResNet", 2018)."""

from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """3x3 convolution without bias, batch norm, ReLU; and, if `pool`, the maximum of each 2x2 pixels.

    The published order is ReLU, then pool. The other way round gives the same values and gradients, since the maximum
    of clipped values is the clipped maximum, and clips a quarter of the pixels: 1.5 % of a training step on a CPU.
    """

    def __init__(self, inputs: int, outputs: int, pool: bool = False) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """The input plus what two ConvNorm blocks of the same width make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block1 = ConvNorm(width, width)
        self.block2 = ConvNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block2(self.block1(x))


class DavidNet(nn.Module):
    """prep - layer1 (pool, residual) - layer2 (pool) - layer3 (pool, residual) - global max-pool - linear.

    With `width` 64, 3 channels and 10 classes: 6,573,120 trainable parameters.

    Args:
        channels: channels of an image.
        classes: number of classes.
        width: filters of the first layer; the next have two, four and eight times as many.
        logits_scale: factor on the logits.
    """

    # From the first to the last: whoever asks where the network looks asks one of these.
    blocks = ("prep", "layer1", "layer2", "layer3")

    def __init__(self, channels: int, classes: int, width: int = 64, logits_scale: float = 0.125) -> None:
        super().__init__()
        self.prep = ConvNorm(channels, width)
        self.layer1 = nn.Sequential(ConvNorm(width, 2 * width, pool=True), Residual(2 * width))
        self.layer2 = ConvNorm(2 * width, 4 * width, pool=True)
        self.layer3 = nn.Sequential(ConvNorm(4 * width, 8 * width, pool=True), Residual(8 * width))
        # Global rather than 4x4, so that other sizes than 32x32 work; the same for 32x32.
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(8 * width, classes, bias=False)
        self.logits_scale = logits_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.prep(x))))
        return self.linear(self.pool(x).flatten(1)) * self.logits_scale
