"""ResNet-18 for small images (He et al. 2015, arXiv 1512.03385): the familiar reference."""

from torch import Tensor, nn

from fastconv.models import configs
from fastconv.models.layers import Convolution
from fastconv.models.registry import register_network


class Subsample(nn.Module):
    """Keeps every `stride`-th row and column."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


class BasicBlock(nn.Module):
    """Two convolutions with norms, added to the input; `stride` halves the map and the input is projected to match."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        whole = stride == 1
        self.conv1 = Convolution(inputs, width) if whole else nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.activation1 = nn.ReLU(inplace=True)
        self.conv2 = Convolution(width, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.activation2 = nn.ReLU(inplace=True)  # a separate module: attribution hooks each module once
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            # Subsample, then convolve without a stride: strided 1x1 convolutions corrupted the heap in the backward
            # pass of a network of width 4 (torch 2.14, on a processor with AVX2).
            self.shortcut = nn.Sequential(
                Subsample(stride), nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.activation1(self.norm1(self.conv1(x)))))
        added: Tensor = self.activation2(out + self.shortcut(x))
        return added


@register_network(configs.ResNet18)
class ResNet18(nn.Module):
    """A 3x3 stem without pool - four stages of two blocks - global mean - linear.

    With `width` 64, 3 channels and 10 classes: 11,173,962 trainable parameters.

    Args:
        channels: channels of an image.
        classes: number of classes.
        width: filters of the first stage; the next have two, four and eight times as many.
    """

    # Names of the layers, from first to last, that attribution methods can use.
    blocks = ("stem", "stage1", "stage2", "stage3", "stage4")

    def __init__(self, channels: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(Convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.stage1 = self._stage(width, width, stride=1)
        self.stage2 = self._stage(width, 2 * width, stride=2)
        self.stage3 = self._stage(2 * width, 4 * width, stride=2)
        self.stage4 = self._stage(4 * width, 8 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8 * width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # He et al. 2015, arXiv 1502.01852
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, width: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, width, stride), BasicBlock(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits
