"""The fast networks and the techniques that DavidNet can take over: layer by layer, and in training."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from harness import noise, only_run
from omegaconf import OmegaConf

from fastconv.analysis.attribution.attribution import Attributor, attribute
from fastconv.analysis.attribution.network import PixelNetwork, Pixels, as_pixels
from fastconv.analysis.checkpoint import load_run
from fastconv.config.commands import Method
from fastconv.config.overrides import compose
from fastconv.config.store import methods
from fastconv.data.dataset import mean_and_std
from fastconv.data.loading import load
from fastconv.models import build_model, configs, count_parameters
from fastconv.models.classifier import whiten
from fastconv.models.configs import model_settings
from fastconv.models.layers import ACTIVATIONS
from fastconv.models.whitening import Whitening
from fastconv.optim import OPTIMIZERS
from fastconv.system.errors import InputError
from fastconv.training.module import ImageClassifier

NARROW = {
    "airbench": {"widths": [8, 16, 16]},
    "airbench95": {"widths": [8, 24, 24], "convs": 2},
    "airbench96": {"widths": [8, 16, 16], "convs": 3, "residual": True},
    "davidnet_fast": {
        "width": 8, "whitening": True, "dirac": True, "pool_before_norm": True, "activation": "celu",
        "freeze_norm_scale": True,
    },
    "resnet18": {"width": 4},
}  # fmt: skip


def narrow(name: str, channels: int = 3, classes: int = 10) -> torch.nn.Module:
    family = name.rstrip("0123456789") if name.startswith("airbench") else name.removesuffix("_fast")
    return build_model(family, channels, classes, **NARROW[name])


def settings(model: str) -> dict:
    return model_settings(OmegaConf.to_object(compose("train", [f"model={model}"])).model)


# -- what they are


def test_parameter_counts_are_the_published_ones():
    """1,971,640 in airbench94: all but the norms' scales, which stay 1; 288 of them belong to the frozen whitening."""
    model = build_model("airbench", 3, 10, **settings("airbench"))
    scales = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    assert sum(parameter.numel() for parameter in model.parameters()) - scales == 1_971_640
    assert count_parameters(model) == 1_971_640 - 288
    # By hand: 24 filters, then groups; biases of norms and whitening; the linear layer.
    wide = 9 * (24 * 128 + 128 * 128 + 128 * 384 + 3 * 384 * 384) + 2 * (128 + 384 + 384) + 24 + 3840
    assert count_parameters(build_model("airbench", 3, 10, **settings("airbench95"))) == wide
    deep = 9 * (24 * 128 + 2 * 128**2 + 128 * 384 + 2 * 384**2 + 384 * 512 + 2 * 512**2)
    deep += 3 * (128 + 384 + 512) + 24 + 5120
    assert count_parameters(build_model("airbench", 3, 10, **settings("airbench96"))) == deep


def test_resnet18_is_torchvisions_with_a_small_stem():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    ours = build_model("resnet18", 3, 10)
    assert count_parameters(ours) == count_parameters(theirs) == 11_173_962
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        parameter.data.copy_(other)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 33, 33), (3, 9, 33)], ids=str)
def test_any_image_size(name, shape):
    assert narrow(name, shape[0], 7)(torch.randn(2, *shape)).shape == (2, 7)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """With running statistics and biases that are not those of the start."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias)
    return model.eval()


def norm(x: torch.Tensor, state: dict, name: str, eps: float = 1e-5) -> torch.Tensor:
    mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, eps=eps)


@pytest.mark.parametrize("name", ["airbench", "airbench96"])
def test_forward_of_airbench_is_the_published_network(name):
    """Layer by layer, from the description of the network, with functions alone."""
    torch.manual_seed(0)
    model = shaken(narrow(name))
    state, images = model.state_dict(), torch.randn(3, 3, 32, 32)
    x = F.gelu(F.conv2d(images, state["whitening.weight"], state["whitening.bias"]))
    assert x.shape == (3, 24, 31, 31)
    for at in range(3):
        group = f"groups.{at}"
        x = F.max_pool2d(F.conv2d(x, state[f"{group}.first.0.weight"], padding=1), 2)
        x = before = F.gelu(norm(x, state, f"{group}.first.2", eps=1e-12))
        x = norm(F.conv2d(x, state[f"{group}.further.0.weight"], padding=1), state, f"{group}.further.1", eps=1e-12)
        if name == "airbench96":
            x = F.conv2d(F.gelu(x), state[f"{group}.further.3.weight"], padding=1)
            x = norm(x, state, f"{group}.further.4", eps=1e-12) + before
        x = F.gelu(x)
    expected = F.linear(F.max_pool2d(x, 3).flatten(1), state["linear.weight"]) / 9
    torch.testing.assert_close(model(images), expected)


def test_forward_of_the_upgraded_davidnet():
    torch.manual_seed(0)
    model = shaken(narrow("davidnet_fast"))
    state, images = model.state_dict(), torch.randn(3, 3, 32, 32)

    def block(x, name, pool=False, padding=1):
        x = F.conv2d(x, state[f"{name}.0.weight"], padding=padding)
        return F.celu(norm(F.max_pool2d(x, 2) if pool else x, state, f"{name}.2"), 0.075)

    def residual(x, name):
        return x + block(block(x, f"{name}.block1"), f"{name}.block2")

    x = block(F.conv2d(images, state["whitening.weight"], padding=1), "prep", padding=0)
    x = residual(block(x, "layer1.0", pool=True), "layer1.1")
    x = block(x, "layer2", pool=True)
    x = residual(block(x, "layer3.0", pool=True), "layer3.1")
    expected = F.linear(F.max_pool2d(x, 4).flatten(1), state["linear.weight"]) * 0.125
    torch.testing.assert_close(model(images), expected)


def test_davidnets_options_are_off_unless_set():
    """Each is by itself, and without any of them the network is what it was: see test_model."""
    plain = settings("davidnet")
    assert {key: value for key, value in plain.items() if value is True} == {}
    keys = set(build_model("davidnet", 3, 10, width=4).state_dict())
    assert "whitening.weight" in build_model("davidnet", 3, 10, width=4, whitening=True).state_dict()
    assert set(build_model("davidnet", 3, 10, width=4, dirac=True, freeze_norm_scale=True).state_dict()) == keys
    assert set(configs.ACTIVATIONS) == set(ACTIVATIONS)
    kinds = {
        name: {type(layer) for layer in build_model("davidnet", 3, 10, width=4, activation=name).modules()}
        for name in ACTIVATIONS
    }
    assert torch.nn.SiLU in kinds["silu"]
    assert torch.nn.CELU in kinds["celu"]
    assert torch.nn.ReLU not in kinds["gelu"]


def test_the_plain_davidnet_begins_with_the_weights_it_always_had():
    """Layer after layer in the network's order, as torch draws them."""
    torch.manual_seed(0)
    state = build_model("davidnet", 3, 10, width=4).state_dict()
    torch.manual_seed(0)
    blocks = {"prep": (3, 4), "layer1.0": (4, 8), "layer1.1.block1": (8, 8), "layer1.1.block2": (8, 8),
              "layer2": (8, 16), "layer3.0": (16, 32), "layer3.1.block1": (32, 32),
              "layer3.1.block2": (32, 32)}  # fmt: skip
    for name, (inputs, outputs) in blocks.items():
        drawn = torch.nn.Conv2d(inputs, outputs, 3, bias=False).weight
        assert torch.equal(state[f"{name}.0.weight"], drawn)
        assert state[f"{name}.1.weight"].eq(1).all()
    assert torch.equal(state["linear.weight"], torch.nn.Linear(32, 10, bias=False).weight)
    assert len(state) == 8 * 6 + 1


@pytest.mark.parametrize("name", ["airbench", "davidnet_fast"])
def test_convolutions_hand_their_inputs_on_at_first(name):
    model, images = narrow(name), torch.randn(1, 8, 6, 6)
    layer = model.groups[0].further[0] if name == "airbench" else model.layer1[0][0]
    torch.testing.assert_close(layer(images)[:, :8], images)


def test_logits_of_airbench_begin_with_the_same_size():
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    begun = []
    for scale in (1 / 256, 1 / 9, 1.0):
        torch.manual_seed(0)
        model = build_model("airbench", 3, 10, logits_scale=scale)
        assert model.linear.weight.std().item() == pytest.approx(1 / 256 / scale, rel=1e-5)
        begun.append(model(images).detach())
    for logits in begun[1:]:
        torch.testing.assert_close(logits, begun[0])


# -- whitening


def patches_of(images: np.ndarray, side: int) -> np.ndarray:
    """All patches of images [N, C, H, W] as rows, channel by channel."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * side * side)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
@pytest.mark.parametrize("side", [2, 3])
def test_whitened_patches_have_identity_covariance(name, side, digits_root, request):
    """Numpy's covariance of the layer's outputs on real images, for directions that are more than noise."""
    root = digits_root if name == "digits" else request.getfixturevalue("official")(name)
    images = load(name, root)[0].images[:150]
    mean, std = mean_and_std(images)
    normalised = np.moveaxis((images / 255 - mean) / std, 3, 1)
    layer = Whitening(images.shape[3], side, eps=0.0 if name == "cifar10" else 1e-9)
    layer.whiten(torch.from_numpy(normalised).float())
    directions = layer.out_channels // 2
    filters = layer.weight.detach().double().numpy().reshape(2 * directions, -1)
    outputs = patches_of(normalised, side) @ filters[:directions].T
    np.testing.assert_allclose(np.cov(outputs, rowvar=False), np.eye(directions), atol=1e-2)
    np.testing.assert_array_equal(filters[directions:], -filters[:directions])
    # The outputs are those of the layer.
    with torch.no_grad():
        layer.bias.zero_()
        found = layer(torch.from_numpy(normalised[:3]).float()).permute(0, 2, 3, 1).flatten(0, 2)[:, :directions]
    np.testing.assert_allclose(found, outputs[: len(found)], atol=2e-2)


@pytest.mark.parametrize(("side", "stride", "components"), [(3, 2, 27), (5, 4, 10)])
def test_whitened_patches_may_be_apart_and_lose_their_smallest_components(side, stride, components, official):
    """By numpy's covariance and its eigenvalues, of the patches that the layer sees."""
    images = load("cifar10", official("cifar10"))[0].images[:150]
    mean, std = mean_and_std(images)
    normalised = np.moveaxis((images / 255 - mean) / std, 3, 1)
    layer = Whitening(3, side, eps=0.0, stride=stride, components=components)
    layer.whiten(torch.from_numpy(normalised).float())
    windows = np.lib.stride_tricks.sliding_window_view(normalised, (side, side), axis=(2, 3))[:, :, ::stride, ::stride]
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 3 * side * side)
    filters = layer.weight.detach().double().numpy().reshape(2 * components, -1)
    outputs = patches @ filters[:components].T
    np.testing.assert_allclose(np.cov(outputs, rowvar=False), np.eye(components), atol=2e-2)
    largest = np.linalg.eigvalsh(np.cov(patches, rowvar=False))[::-1][:components]
    np.testing.assert_allclose(1 / np.square(filters[:components]).sum(1), largest, rtol=1e-3)
    with torch.no_grad():
        layer.bias.zero_()
        found = layer(torch.from_numpy(normalised[:3]).float()).permute(0, 2, 3, 1).flatten(0, 2)[:, :components]
    np.testing.assert_allclose(found, outputs[: len(found)], atol=5e-2)


@pytest.mark.parametrize(("channels", "stride", "side"), [(3, 2, 32), (3, 4, 64), (3, 8, 128), (1, 2, 28), (1, 4, 56)])
def test_a_stride_makes_maps_as_those_of_smaller_images(channels, stride, side):
    model = build_model("airbench", channels, 10, widths=[8, 8, 8], whitening_stride=stride)
    images = torch.rand(60, channels, side, side)
    model.whitening.whiten(images)
    assert model.whitening(images[:2]).shape[2:] == (side // stride, side // stride)
    assert model(images[:2]).shape == (2, 10)


def test_whitening_is_of_the_images_alone():
    images = torch.from_numpy(np.moveaxis(noise(57, 3).images, 3, 1) / 100.0).float()
    one, other = Whitening(3, 2), Whitening(3, 2)
    one.whiten(images)
    other.whiten(images)
    assert torch.equal(one.weight, other.weight)
    assert not one.weight.requires_grad
    assert one.bias.requires_grad
    # A direction of hardly any variance is not blown up: all four channels here are the same.
    same = images[:, :1].repeat(1, 2, 1, 1)
    flat = Whitening(2, 1)
    flat.whiten(same)
    assert flat.weight.abs().max() < 1 / 5e-4**0.5


# -- in training


@pytest.fixture(scope="module")
def digits(digits_root):
    return load("digits", digits_root)[0]


@pytest.mark.parametrize(("name", "optimizer"), itertools.product(NARROW, OPTIMIZERS))
def test_every_network_learns_with_every_optimizer(name, optimizer, digits):
    """Real images, as the module sees them; what is frozen stays as it is."""
    torch.manual_seed(0)
    module = ImageClassifier(
        model=name.rstrip("0123456789") if name.startswith("airbench") else name.removesuffix("_fast"),
        settings=NARROW[name],
        shape=digits.images.shape[1:],
        classes=digits.classes,
        mean=(0.3,),
        std=(0.35,),
        label_smoothing=0.1,
    )
    whiten(module.model, module.normalise, digits.images)
    frozen = {key: value.clone() for key, value in module.model.named_parameters() if not value.requires_grad}
    assert bool(frozen) == (name != "resnet18")
    faster = {"max_lr": 0.01} if optimizer == "adamw" else {}  # as the networks are narrow and the steps few
    chosen = OPTIMIZERS[optimizer](**faster).build(module.model, 128)
    losses = []
    for step in range(48):
        rows = slice(step % 8 * 128, step % 8 * 128 + 128)
        images, labels = (torch.from_numpy(each[rows].copy()) for each in (digits.images, digits.labels))
        loss, _ = module.learn(images, labels)
        chosen.zero_grad()
        loss.backward()
        chosen.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.9 * losses[0]
    for key, value in module.model.named_parameters():
        assert key not in frozen or torch.equal(value, frozen[key])


def test_muon_moves_logits_alike_whatever_their_scale(digits):
    """To the accuracy of float32: the published learning rates hold for any."""
    images, labels = (torch.from_numpy(each[:64].copy()) for each in (digits.images, digits.labels))
    pixels, moved = images.permute(0, 3, 1, 2) / 255 - 0.3, []
    for scale in (1 / 256, 0.2):
        torch.manual_seed(0)
        model = build_model("airbench", 1, 10, widths=[8, 16, 16], logits_scale=scale)
        optimizer, before = OPTIMIZERS["muon"]().build(model, 64), model(pixels).detach()
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), labels).backward()
            optimizer.step()
        moved.append(model(pixels).detach() - before)
    assert moved[0].norm() > 0.1
    assert (moved[0] - moved[1]).norm() < 0.01 * moved[0].norm()


@pytest.mark.parametrize("name", ["airbench", "davidnet_fast", "resnet18"])
def test_gradients_are_those_of_a_contiguous_network_in_float64(name, digits):
    """Some of the kernels for few channels that are last in memory are wrong."""
    torch.manual_seed(0)
    model = narrow(name, 1).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(model).to(torch.float64, memory_format=torch.contiguous_format)
    images, labels = (torch.from_numpy(each[:64].copy()) for each in (digits.images, digits.labels))
    pixels = images.permute(0, 3, 1, 2) / 255 - 0.3
    F.cross_entropy(model(pixels), labels).backward()
    F.cross_entropy(exact(pixels.double().contiguous()), labels).backward()
    for (key, found), expected in zip(model.named_parameters(), exact.parameters(), strict=True):
        if found.requires_grad:
            size = expected.grad.abs().max() + 1e-12
            torch.testing.assert_close(found.grad.double() / size, expected.grad / size, rtol=0, atol=1e-2, msg=key)


RUN = ("batch_size=64", "trainer=cpu", "trainer.precision=fp32", "budget.seconds=null", "schedule.max_epochs=1")


@pytest.mark.parametrize(
    "choice",
    [
        (
            "model=airbench96",
            "model.widths=[8,8,16]",
            "optimizer=muon",
            "schedule=linear",
            "average=lookahead",
            "augment=airbench",
            "augment.color_jitter.brightness=0.1",
            "augment.auto=trivial_augment",
            "tta.confidence_threshold=0.9",
        ),
        ("model=resnet18", "model.width=4", "optimizer=adamw", "optimizer.max_lr=0.003"),
    ],
    ids=["airbench96", "resnet18"],
)
def test_a_run_keeps_what_it_learned(choice, command, tmp_path, digits):
    """Trained by the command, read back, and asked where it looks."""
    ended = command("train", *RUN, *choice)
    assert ended.code == 0, ended.err
    folder = only_run(tmp_path / "outputs")
    trained = load_run(folder)
    if hasattr(trained.model, "whitening"):
        images = torch.from_numpy(digits.images.copy()).permute(0, 3, 1, 2)
        layer = Whitening(1, 3, padding=1)
        layer.whiten((images / 255 - trained.mean[0]) / trained.std[0])
        torch.testing.assert_close(trained.model.whitening.weight, layer.weight, rtol=1e-3, atol=1e-3)
        untrained = trained.untrained()
        assert torch.equal(untrained.whitening.weight, trained.model.whitening.weight), "it was not learned"
        assert not torch.equal(untrained.linear.weight, trained.model.linear.weight)
    network = PixelNetwork(trained.model, trained.mean, trained.std)
    layer, size = network.layer("last", (28, 28, 1))
    assert layer is network.model.get_submodule(trained.model.blocks[-1])
    assert min(size) > 1


def test_airbench_can_be_explained():
    """By every method of a report; those that would be another on a network without ReLU say so."""
    torch.manual_seed(0)
    model, images = narrow("airbench"), noise(6, 3).images
    model(torch.randn(64, 3, 9, 11))
    network, pixels = PixelNetwork(model, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), Pixels.of(images)
    chosen = methods(OmegaConf.to_object(compose("explain", ["run=a"])))
    assert len(chosen) >= 6
    for method in chosen.values():
        found, _ = attribute(Attributor(method, network, pixels, (9, 11, 3)), as_pixels(images), torch.arange(6))
        assert found.shape[2:] == (9, 11)
        assert found.any(), method.captum
    for captum, line in (("GuidedBackprop", "no ReLU modules"), ("DeepLift", "no rule for AdaptiveMaxPool2d, GELU")):
        with pytest.raises(InputError, match=line):
            Attributor(Method(captum), network, pixels, (9, 11, 3))
