"""Layers that several networks share: activations by name, and a convolution that is faster than torch's on a CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastconv.kernels.winograd import tile_for, tile_of, winograd_conv2d

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    # Page 2019, "How to train your ResNet 8", for norms with a learned scale: almost a ReLU, but smooth. For scales
    # that are frozen at 1 he uses four times the alpha, 0.3, because learned scales end near a quarter.
    "celu": lambda: nn.CELU(alpha=0.075),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

# Largest maps, in rows, for which one matrix product is faster than oneDNN's gradient of the weights, in general and
# with many channels: 1.5 to 5 times as fast, on two cores with AMX. On larger maps it is slower.
SMALLEST_MAP, SMALL_MAP, MANY_CHANNELS = 4, 8, 128


class Convolution(nn.Conv2d):
    """`nn.Conv2d` with square filters, no bias, and padding that keeps the size of the map.

    On a CPU it may be Winograd's (`fastconv.kernels.winograd`). Otherwise, in bf16, for small maps with many channels,
    it computes the gradient of its weights as one matrix product with the copied 3x3 patches. Values and gradients
    equal those of `nn.Conv2d`, except for rounding.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (3, 3) and (tile := tile_for(x, self.weight, padding=1, training=self.training)):
            found: Tensor = winograd_conv2d(x, self.weight, 1, tile)
            return found
        if self._is_slow(x):
            out: Tensor = _SmallMap.apply(x.bfloat16(), self.weight.bfloat16())
            return out
        return super().forward(x)

    def _is_slow(self, x: Tensor) -> bool:
        """Whether oneDNN's gradient of the weights is slow for such maps."""
        rows = x.shape[2]
        return (
            x.device.type == "cpu"
            and self.kernel_size == (3, 3)
            and (rows <= SMALLEST_MAP or (rows <= SMALL_MAP and self.in_channels >= MANY_CHANNELS))
            and torch.is_grad_enabled()
            and self.weight.requires_grad
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
            and x.is_contiguous(memory_format=torch.channels_last)
        )


class _SmallMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = None
        if ctx.needs_input_grad[0]:
            around = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # bias; stride, padding, dilation; not transposed
            of_x = torch.ops.aten.convolution_backward(gradient, x, weight, *around, [True, False, False])[0]
        return of_x, _of_weight(x, gradient)


def _of_weight(x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient [outputs, inputs, 3, 3] of the weights, from [N, inputs, H, W] and [N, outputs, H, W]."""
    count, inputs, height, width = x.shape
    padded = nn.functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # channels last, as x is
    image, row, column, channel = padded.stride()
    patches = padded.as_strided((count, height, width, 3, 3, inputs), (image, row, column, row, column, channel))
    outputs = gradient.permute(0, 2, 3, 1).reshape(count * height * width, -1)
    product = outputs.T @ patches.reshape(count * height * width, 9 * inputs)
    return product.view(-1, 3, 3, inputs).permute(0, 3, 1, 2)


@torch.no_grad()
def winograd_layers(
    network: nn.Module, shape: tuple[int, int, int], images: int, dtype: torch.dtype = torch.float32
) -> int:
    """Number of layers of a network whose convolutions Winograd's would be fastest for.

    Args:
        network: it is computed once, in evaluation mode, on one black image.
        shape: height, width and channels of an image.
        images: of a batch.
        dtype: of the maps, float32 or bfloat16.
    """
    height, width, channels = shape
    found: set[nn.Module] = set()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs, height, width = output.shape[1:]
        if tile_of(images, inputs[0].shape[1], outputs, height, width, dtype):
            found.add(layer)

    layers = [layer for layer in network.modules() if isinstance(layer, Convolution) and layer.kernel_size == (3, 3)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        if layers:
            network.eval()(torch.zeros(1, channels, height, width))
    finally:
        for hook in hooks:
            hook.remove()
    return len(found)
