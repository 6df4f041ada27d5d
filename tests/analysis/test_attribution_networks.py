"""Attribution of networks that are not fastconv's own, and of large images, against autograd and plain counting."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from fastconv.analysis.attribution.attribution import Attributor, attribute
from fastconv.analysis.attribution.metrics import deletion_and_insertion, randomised, relative_infidelity
from fastconv.analysis.attribution.network import PixelNetwork, Pixels
from fastconv.config.commands import Method
from fastconv.system.errors import InputError

SHAPE = (32, 32, 3)
STATISTICS = (0.5,) * 3, (0.25,) * 3
GENERATOR = np.random.default_rng(0)
PIXELS = Pixels.of(GENERATOR.integers(0, 256, (40, *SHAPE), np.uint8))


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [1, 2], [2, 2], num_classes=3)


def convnext() -> nn.Module:
    return torchvision.models.ConvNeXt([CNBlockConfig(12, 24, 1), CNBlockConfig(24, None, 1)], num_classes=3)


class Attention(nn.Module):
    """A transformer over four patches, whose queries are an output of their own, [B, heads, tokens, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 16, 16, 16), nn.Identity(), nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        queries = self.norm(tokens.unflatten(2, (2, 8)).transpose(1, 2))
        tokens = F.scaled_dot_product_attention(queries, queries, queries).transpose(1, 2).flatten(2)
        return self.head(tokens.mean(1))


def grad_cam(network: PixelNetwork, module: nn.Module, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """By its definition, of a module whose output is [B, H, W, C] if its last axis is not as long as the one before."""
    kept = []
    handle = module.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = network(inputs.detach().requires_grad_())
    handle.remove()
    (output,) = kept
    gradient = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), output)[0]
    if output.shape[2] != output.shape[3]:
        output, gradient = output.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    found = (gradient.mean((2, 3), keepdim=True) * output).sum(1, keepdim=True)
    return F.interpolate(found.detach(), inputs.shape[2:], mode="bilinear")


@pytest.mark.parametrize(
    ("make", "last", "fine"), [(swin, "permute", "features.1"), (convnext, "features.3", "features.2.0")]
)
@pytest.mark.parametrize(("layer", "grid"), [("last", (4, 4)), ("fine", (8, 8))])
def test_grad_cam_of_a_network_whose_maps_have_their_channels_last(make, last, fine, layer, grid):
    torch.manual_seed(0)
    network = PixelNetwork(make(), *STATISTICS)
    inputs, target = PIXELS.images[:5], torch.tensor([0, 1, 2, 0, 1])
    before = network(inputs)
    attributor = Attributor(Method("LayerGradCam", layer=layer), network, PIXELS, SHAPE)
    found, _ = attribute(attributor, inputs, target)
    assert attributor.grid == grid
    module = network.model.get_submodule({"last": last, "fine": fine}[layer])
    assert torch.allclose(found, grad_cam(network, module, inputs, target), atol=1e-6)
    assert found.std() > 0
    assert torch.equal(network(inputs), before)


def test_the_values_of_attention_are_no_map():
    network = PixelNetwork(Attention(), *STATISTICS)
    for layer in ("last", "fine"):
        assert network.layer(layer, SHAPE) == (network.model.patches, (2, 2))


class Positions(nn.Module):
    """A network that adds a table of positions, [1, H, W, C], computed for all images together."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.patches, self.head = nn.Linear(2, 3), nn.Conv2d(3, 3, 4, 4), nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        table = self.table(torch.ones(1, 4, 4, 2)).mean((1, 2))
        return self.head(self.patches(images).mean((2, 3)) + table)


def test_a_table_of_positions_is_no_map():
    network = PixelNetwork(Positions(), *STATISTICS)
    for layer in ("last", "fine"):
        assert network.layer(layer, SHAPE) == (network.model.patches, (8, 8))


class Functional(nn.Module):
    """A network whose activations are functions, which Captum does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(images)))).mean((2, 3)))


@pytest.mark.parametrize("blocks", [3, None, [[8, 3]], [nn.Identity()], nn.ModuleList([nn.Identity()])], ids=repr)
def test_blocks_of_a_network_may_be_anything(blocks):
    network = PixelNetwork(Functional(), *STATISTICS)
    network.model.blocks = blocks
    assert network.layer("last", SHAPE) == (network.model.second, (28, 28))
    assert network.layer("fine", SHAPE) == (network.model.first, (30, 30))


def test_deep_lift_of_a_network_of_functions_is_refused():
    torch.manual_seed(0)
    model = Functional()
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    modules = nn.Sequential(model.first, nn.ReLU(), model.second, nn.ReLU(), *pool, model.head)
    networks = [PixelNetwork(each, *STATISTICS) for each in (modules, model)]
    given = PIXELS.images[:8], torch.zeros(8, dtype=torch.int64)
    assert torch.allclose(*(network(given[0]) for network in networks), atol=1e-6)
    whole, missing = (Attributor(Method("DeepLift"), network, PIXELS, SHAPE) for network in networks)
    assert attribute(whole, *given)[1].max() < 0.01
    with pytest.raises(InputError, match=r"its maps miss the change of the logit, .* by \d+%"):
        attribute(missing, *given)


class Counting(nn.Module):
    """A network that notes how many images it computes at once."""

    seen: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        return self.head(self.norm(images.mean((2, 3))))


@pytest.mark.parametrize(("side", "most"), [(8, 500), (320, 20)])  # 500 * 64**2 = 20 * 320**2
def test_few_large_images_are_computed_at_once(side, most):
    Counting.seen.clear()
    network = PixelNetwork(Counting(), *STATISTICS)
    inputs, target = torch.rand(40, 3, side, side), torch.zeros(40, dtype=torch.int64)
    few, absent = slice(3), torch.zeros(1, 3, 1, 1)
    saliency = Attributor(Method("Saliency"), network, PIXELS, (side, side, 3))
    maps, _ = attribute(saliency, inputs, target)
    deletion_and_insertion(network, inputs[few], maps[few].sum(1), target[few], absent)
    relative_infidelity(network, saliency, inputs[few], maps[few], target[few], absent)
    fresh = randomised(network, Counting, inputs, seed=0)
    assert most / 10 < max(Counting.seen) <= most
    assert sum(Counting.seen) == 40 + 3 * 2 * 21 + 2 * 3 * (1 + 10) + 40
    normalised = (inputs - 0.5) / 0.25
    assert torch.allclose(fresh.model.norm.running_mean, normalised.mean((0, 2, 3)), atol=1e-5)


def test_deletion_is_the_same_however_many_images_are_computed_at_once(monkeypatch):
    torch.manual_seed(0)
    network = PixelNetwork(convnext(), *STATISTICS)
    given = network, PIXELS.images[:3], torch.rand(3, 32, 32), torch.tensor([0, 1, 2]), PIXELS.mean
    together = deletion_and_insertion(*given)
    monkeypatch.setattr("fastconv.analysis.attribution.metrics.images_at_once", lambda _: 5)
    assert np.allclose(deletion_and_insertion(*given), together, atol=1e-6)
