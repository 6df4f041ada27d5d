"""Attribution maps against Captum itself, and their measures against plain loops."""

import itertools

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from fastconv.analysis.attribution.attribution import Attributor, attribute
from fastconv.analysis.attribution.drawing import overlay
from fastconv.analysis.attribution.metrics import (
    deletion_and_insertion,
    half_area,
    max_sensitivity,
    random_maps,
    randomised,
    rank_correlation,
    relative_infidelity,
    share_on,
)
from fastconv.analysis.attribution.network import PixelNetwork, Pixels, as_pixels, predict
from fastconv.analysis.attribution.samples import choose
from fastconv.config.commands import Method
from fastconv.data.dataset import ImageData
from fastconv.models import build_model
from fastconv.system.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SHAPE = (32, 32, 3)
CELL = 8
GRAD_CAM = Method("LayerGradCam", layer="last")
OCCLUSION = Method("Occlusion", window=0.25)
SMOOTH_GRAD = Method("Saliency", arguments={"abs": False}, noise_samples=4)
INTEGRATED_GRADIENTS = Method("IntegratedGradients", arguments={"n_steps": 16})


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of noise with a patch of stripes that decide the label; labels; rows and columns of the patches.

    The stripes lie, stand or cross: their colours are the same, and the same as those of the noise on average.
    """
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, *SHAPE), np.uint8)
    labels, cells = generator.integers(0, 3, count), generator.integers(0, 4, (count, 2))
    rows, columns = np.mgrid[:CELL, :CELL] // 2
    stripes = [255 * (each % 2).astype(np.uint8)[..., None] for each in (rows, columns, rows + columns)]
    for image, label, (row, column) in zip(images, labels, cells, strict=True):
        image[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = stripes[label]
    return images, labels, cells


@pytest.fixture(scope="module")
def network() -> PixelNetwork:
    """A DavidNet that was trained on planted patches for some seconds.

    It is wide enough to know each class by what it has: a narrow one may know one by what the others have, and then its
    evidence is everywhere.
    """
    torch.manual_seed(0)
    model = build_model("davidnet", channels=3, classes=3, width=16).to(memory_format=torch.channels_last)
    images, labels, _ = planted(768, seed=1)
    inputs, target = (as_pixels(images) - 0.5) / 0.3, torch.from_numpy(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    batches = [rows for _ in range(4) for rows in torch.randperm(len(inputs)).split(64)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=len(batches))
    for rows in batches:
        loss = F.cross_entropy(model(inputs[rows]), target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    trained = PixelNetwork(model, (0.5,) * 3, (0.3,) * 3)
    images, labels, _ = planted(200, seed=2)
    assert (predict(trained, images).argmax(1) == labels).mean() > 0.98
    return trained


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return Pixels.of(planted(64, seed=1)[0])


def maps_of(method: Method, network: nn.Module, pixels: Pixels, images: np.ndarray) -> torch.Tensor:
    """The method's attributions for the classes that the network names, float [N, C or 1, H, W]."""
    target = torch.from_numpy(predict(network, images).argmax(1))
    return attribute(Attributor(method, network, pixels, SHAPE), as_pixels(images), target)[0]


# -- the maps


@pytest.mark.parametrize("method", [GRAD_CAM, OCCLUSION], ids=["grad_cam", "occlusion"])
def test_peaks_lie_in_the_patch_that_alone_decides(method, network, pixels):
    images, _, cells = planted(100, seed=3)
    maps = maps_of(method, network, pixels, images).sum(1)
    peaks = maps.flatten(1).argmax(1)
    found = torch.stack([peaks // 32 // CELL, peaks % 32 // CELL], dim=1).numpy()
    assert (found == cells).all(axis=1).mean() >= 0.9


def test_maps_are_captums_own(network, pixels):
    """Captum asked by hand, of a network that normalises its pixels in a way of its own."""
    images = planted(6, seed=4)[0]
    plain = nn.Sequential(Normalise(), network.model)
    inputs, mean = as_pixels(images), as_pixels(planted(64, seed=1)[0]).mean(dim=(0, 2, 3)).view(1, 3, 1, 1)
    target = plain(inputs).argmax(1)

    layer = captum.attr.LayerGradCam(plain, network.model.layer3).attribute(inputs, target=target)
    expected = F.interpolate(layer, (32, 32), mode="bilinear")
    assert torch.allclose(maps_of(GRAD_CAM, network, pixels, images), expected, atol=1e-6)

    integrated = captum.attr.IntegratedGradients(plain)
    expected = integrated.attribute(inputs, baselines=mean.expand(1, 3, 32, 32), target=target, n_steps=16)
    assert torch.allclose(maps_of(INTEGRATED_GRADIENTS, network, pixels, images), expected.float(), atol=1e-6)

    occluded = captum.attr.Occlusion(plain).attribute(
        inputs, (3, 8, 8), strides=(3, 4, 4), baselines=mean.expand_as(inputs), target=target
    )
    assert torch.allclose(maps_of(OCCLUSION, network, pixels, images), occluded.float(), atol=1e-6)

    torch.manual_seed(0)
    noisy = captum.attr.NoiseTunnel(captum.attr.Saliency(plain)).attribute(
        inputs, nt_type="smoothgrad", nt_samples=4, stdevs=0.15, target=target, abs=False
    )
    assert torch.allclose(maps_of(SMOOTH_GRAD, network, pixels, images), noisy, atol=1e-6)


class Normalise(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs - 0.5) / 0.3


def test_integrated_gradients_sum_to_the_difference_of_logits(network, pixels):
    images = planted(20, seed=5)[0]
    inputs, target = as_pixels(images), torch.from_numpy(predict(network, images).argmax(1))
    method = Attributor(Method("IntegratedGradients", arguments={"n_steps": 32}), network, pixels, SHAPE)
    maps, gaps = attribute(method, inputs, target)
    with torch.no_grad():
        logits, baseline = network(inputs), network(pixels.mean.expand(1, 3, 32, 32))
    rows = torch.arange(20)
    wanted = logits[rows, target] - baseline[0, target]
    expected = (maps.sum(dim=(1, 2, 3)) - wanted).abs() / wanted.abs()
    assert torch.allclose(gaps, expected, atol=1e-5)
    assert gaps.median() < 0.05
    assert attribute(Attributor(GRAD_CAM, network, pixels, SHAPE), inputs, target)[1] is None


def test_deep_lift_shap_sums_to_the_difference_to_the_mean_of_its_baselines(pixels):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 3))
    network, images = PixelNetwork(plain, MEAN, STD), planted(3, seed=5)[0]
    inputs, target = as_pixels(images), torch.tensor([0, 1, 2])
    method = Attributor(Method("DeepLiftShap", baseline="images"), network, pixels, SHAPE, batch_size=64)
    assert method.images_at_once == 2, "each image is compared with 32 others"
    maps, gaps = attribute(method, inputs, target)
    with torch.no_grad():
        wanted = network(inputs)[range(3), target] - network(pixels.images[::2]).mean(0)[target]
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), wanted, rtol=1e-3, atol=1e-4)
    assert gaps.max() < 0.01


def test_guided_grad_cam_has_the_signs_of_a_gradient(network, pixels):
    """They say whether a pixel should be brighter or darker, so that both are evidence."""
    method = Method("GuidedGradCam", layer="last")
    assert (maps_of(method, network, pixels, planted(2, seed=5)[0]) < 0).any()
    assert Attributor(method, network, pixels, SHAPE).is_local
    assert not Attributor(GRAD_CAM, network, pixels, SHAPE).is_local
    assert not Attributor(OCCLUSION, network, pixels, SHAPE).is_local


def test_maps_depend_on_neither_the_batch_nor_the_caller(network, pixels):
    images = planted(5, seed=6)[0]
    for method in (GRAD_CAM, INTEGRATED_GRADIENTS, OCCLUSION):
        whole = maps_of(method, network, pixels, images)
        target = torch.from_numpy(predict(network, images).argmax(1))
        small = Attributor(method, network, pixels, SHAPE, batch_size=1)
        assert torch.allclose(attribute(small, as_pixels(images), target)[0], whole, atol=1e-5)
    method = Method("GradientShap", baseline="images")
    torch.manual_seed(1), np.random.seed(1)
    first = maps_of(method, network, pixels, images)
    draws = torch.rand(1), np.random.rand()
    torch.manual_seed(1), np.random.seed(1)
    assert (torch.rand(1), np.random.rand()) == draws
    assert torch.equal(maps_of(method, network, pixels, images), first)


def test_layers_by_their_meaning(network):
    assert network.layer("last", SHAPE) == (network.model.layer3, (4, 4))
    assert network.layer("fine", SHAPE) == (network.model.layer2, (8, 8))
    assert network.layer("layer1.1", SHAPE) == (network.model.layer1[1], (16, 16))
    assert network.layer("last", (8, 8, 3)) == (network.model.layer2, (2, 2))  # layer3 has one place left


@pytest.mark.parametrize(
    ("method", "line"),
    [
        (Method("LayerGradcam", layer="last"), "unknown method LayerGradcam; did you mean LayerGradCam?"),
        (Method("LayerGradCam", layer="layer9"), "unknown layer layer9; did you mean layer3?"),
        (Method("LayerGradCam", layer="pool"), "layer pool has no spatial map"),
        (Method("LayerGradCam"), "LayerGradCam needs a layer: set layer=last"),
        (Method("Saliency", layer="last"), "Saliency attributes to pixels: set layer=null"),
        (Method("DeepLift"), "Captum has no rule for AdaptiveMaxPool2d"),
        (Method("Saliency", arguments={"n_steps": 3}), "unexpected keyword argument 'n_steps'): check its arguments"),
    ],
)
def test_a_method_that_cannot_be_is_refused(method, line, network, pixels):
    with pytest.raises(InputError) as error:
        maps_of(method, network, pixels, planted(2, seed=0)[0])
    assert line in str(error.value)


def test_a_method_that_would_silently_be_another_is_refused(network, pixels):
    images = planted(2, seed=0)[0]
    guided = maps_of(Method("GuidedBackprop"), network, pixels, images)
    assert not torch.allclose(guided, maps_of(Method("Saliency", arguments={"abs": False}), network, pixels, images))
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match="no ReLU modules"):
        maps_of(Method("GuidedBackprop"), PixelNetwork(smooth, MEAN, STD), pixels, images)
    with pytest.raises(InputError, match="compiled"):
        PixelNetwork(torch.compile(smooth), MEAN, STD)


def test_maps_that_are_not_finite_are_refused(network, pixels):
    hook = network.model.linear.register_full_backward_hook(lambda *given: tuple(each * torch.nan for each in given[1]))
    with pytest.raises(InputError, match="not finite"):
        maps_of(GRAD_CAM, network, pixels, planted(2, seed=0)[0])
    hook.remove()


def test_a_network_without_finite_results_is_refused(network, pixels):
    broken = PixelNetwork(network.model, MEAN, STD)
    broken.model.linear.weight.data[:] = float("nan")
    with pytest.raises(InputError, match="outputs are not finite"):
        maps_of(GRAD_CAM, broken, pixels, planted(2, seed=0)[0])


def test_a_network_is_left_as_it_was():
    model = build_model("davidnet", channels=3, classes=3, width=4)
    PixelNetwork(model, MEAN, STD)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.prep[3].inplace


# -- the measures


def test_deletion_and_insertion_against_a_loop(network, pixels):
    images = planted(3, seed=7)[0]
    inputs, target = as_pixels(images), torch.from_numpy(predict(network, images).argmax(1))
    maps, absent = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)), pixels.absent()
    found = deletion_and_insertion(network, inputs, maps, target, absent, steps=4)
    for row in range(3):
        order = np.argsort(-maps[row].flatten().numpy(), kind="stable")
        for kind in range(2):
            curve = []
            for part in range(5):
                first = np.zeros(1024, bool)
                first[order[: part * 256]] = True
                kept = torch.from_numpy(first if kind else ~first).view(32, 32)
                image = torch.where(kept, inputs[row], absent[0])
                curve.append(float(network(image[None]).softmax(1)[0, target[row]]))
            area = sum((one + other) / 2 for one, other in itertools.pairwise(curve)) / 4
            assert found[kind][row] == pytest.approx(area, abs=1e-6)


def test_the_truth_beats_random_heatmaps(network, pixels):
    """The patch itself as a map: no map is better, and every measure that has a better end says so."""
    images, _, cells = planted(30, seed=8)
    inputs, target = as_pixels(images), torch.from_numpy(predict(network, images).argmax(1))
    truth = torch.zeros(30, 32, 32)
    for map_, (row, column) in zip(truth, cells, strict=True):
        map_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 1
    noise = random_maps(30, (32, 32), (4, 4), seed=0)
    method = Attributor(GRAD_CAM, network, pixels, SHAPE)
    (deletion, insertion), (deletion_random, insertion_random) = (
        deletion_and_insertion(network, inputs, maps, target, pixels.absent()) for maps in (truth, noise)
    )
    assert deletion.mean() < deletion_random.mean() - 0.1
    assert insertion.mean() > insertion_random.mean() + 0.1
    told, untold = (
        relative_infidelity(network, method, inputs, maps[:, None], target, pixels.absent(), samples=20)
        for maps in (truth, noise)
    )
    assert np.median(told) < 0.3
    assert np.median(untold) > 0.5
    assert untold.max() <= 1 + 1e-6


def test_infidelity_of_a_linear_network_is_zero_for_its_own_weights(pixels):
    """Of a linear network the gradient predicts every change, whatever is removed."""
    torch.manual_seed(0)
    linear = PixelNetwork(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), MEAN, STD)
    images = planted(4, seed=9)[0]
    inputs, target = as_pixels(images), torch.tensor([0, 1, 2, 0])
    method = Attributor(Method("Saliency", arguments={"abs": False}), linear, pixels, SHAPE)
    maps, _ = attribute(method, inputs, target)
    assert relative_infidelity(linear, method, inputs, maps, target, pixels.absent()).max() < 1e-6
    assert max_sensitivity(method, inputs, target).max() < 1e-6  # and it is the same everywhere


def test_rank_correlation_is_scipys():
    generator = np.random.default_rng(0)
    one, other = np.round(generator.normal(size=(2, 4, 6, 6)), 1)
    area = generator.random((4, 6, 6)) < 0.7
    one[:, 0], other[:, 0] = 0, 0  # where both maps are zero they agree on nothing
    found = rank_correlation(one, other, area)
    for row in range(4):
        inside = area[row] & ((one[row] != 0) | (other[row] != 0))
        assert found[row] == pytest.approx(spearmanr(one[row][inside], other[row][inside]).statistic)
    assert np.isnan(rank_correlation(np.zeros((1, 6, 6)), one[:1]))


def test_shares_of_maps():
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0, 0, 0], maps[0, 3, 3], maps[0, 1, 1] = 3, 1, -5
    maps[1] = 1
    area = np.zeros((3, 4, 4), bool)
    area[:, :2] = True
    assert share_on(maps, area)[:2].tolist() == [0.75, 0.5]
    assert half_area(maps)[:2].tolist() == [1 / 16, 8 / 16]
    assert np.isnan(share_on(maps, area)[2])
    assert np.isnan(half_area(maps)[2])


@pytest.mark.parametrize(
    ("method", "at_least"),
    [(GRAD_CAM, 0.9), (INTEGRATED_GRADIENTS, 0.5), (SMOOTH_GRAD, 0.4)],
    ids=["grad_cam", "ig", "smooth"],
)
def test_random_weights_change_the_maps_and_noise_does_not(method, at_least, network, pixels):
    images = planted(10, seed=10)[0]
    inputs, target = as_pixels(images), torch.from_numpy(predict(network, images).argmax(1))
    fresh = randomised(network, lambda: build_model("davidnet", channels=3, classes=3, width=16), pixels.images, seed=0)
    again = randomised(network, lambda: build_model("davidnet", channels=3, classes=3, width=16), pixels.images, seed=0)
    assert torch.equal(fresh(inputs), again(inputs))
    assert fresh(inputs).std(0).min() > 0  # it is alive
    noise = 0.02 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))

    def maps(some: PixelNetwork, images: torch.Tensor) -> np.ndarray:
        return attribute(Attributor(method, some, pixels, SHAPE), images, target)[0].sum(1).numpy()

    trained = maps(network, inputs)
    itself = rank_correlation(trained, maps(network, inputs + noise)).mean()
    assert itself > at_least
    assert rank_correlation(trained, maps(fresh, inputs)).mean() < itself - 0.3


class Frozen(nn.Sequential):
    """Keeps the statistics of its batch norms in training, as a pretrained network does."""

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self[1].eval()
        return self


def test_random_weights_have_statistics_of_their_own_where_those_of_the_trained_ones_are_frozen(pixels):
    def build() -> nn.Module:
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        return Frozen(*layers)

    fresh = randomised(PixelNetwork(build(), MEAN, STD), build, pixels.images, seed=1)
    norm = fresh.model[1]
    inputs = fresh.model[0]((pixels.images - fresh.mean) / fresh.std)
    assert torch.allclose(norm.running_mean, inputs.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, inputs.var((0, 2, 3)), rtol=1e-4)
    assert not norm.training


# -- the images


def test_samples_are_unbiased_and_the_same_for_a_seed():
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (200, 4, 4, 1), np.uint8), np.arange(200) % 3
    test = ImageData("noise", images, labels, ("a", "b", "c"), "")
    probabilities = generator.dirichlet(np.ones(3), 200)
    by_bytes = {image.tobytes(): row for row, image in enumerate(images)}

    def predictions(some: np.ndarray) -> np.ndarray:
        return np.stack([probabilities[by_bytes[image.tobytes()]] for image in some])

    found = choose(test, predictions, per_class=4, errors=5, correct=6, candidates=1000, seed=3)
    assert np.bincount(found.labels[found.measured]).tolist() == [4, 4, 4]
    assert list(found.kinds) == ["class"] * 12 + ["error"] * 5 + ["correct"] * 6
    rows = np.array([by_bytes[image.tobytes()] for image in found.images])
    assert found.names[0] == f"test image {rows[0]}"
    said, sure = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(said != labels)
    assert rows[12:17].tolist() == wrong[np.argsort(-sure[wrong])][:5].tolist()
    right = np.flatnonzero(said == labels)
    assert rows[17:].tolist() == right[np.argsort(sure[right])][:6].tolist()
    again = choose(test, predictions, per_class=4, errors=0, correct=0, candidates=1000, seed=3)
    assert again.names == found.names[:12]
    other = choose(test, predictions, per_class=4, errors=0, correct=0, candidates=1000, seed=4)
    assert other.names != again.names


def test_a_black_background_is_seen():
    images = np.zeros((10, 8, 8, 1), np.uint8)
    images[:, 2:6, 2:6] = 200
    found = Pixels.of(images)
    assert found.has_background
    assert found.absent().max() == 0
    assert found.absent("mean").item() == pytest.approx(200 / 255 / 4)
    assert found.absent("images").shape == (10, 1, 8, 8)
    assert not Pixels.of(255 - images).has_background


@pytest.mark.parametrize("count", [40, 700, 5000])
def test_baselines_are_of_all_classes_where_images_are_in_their_order(count):
    """As those of a folder of images are: by class, then by pixels."""
    images = np.repeat(np.sort(np.arange(count) % 10), 4).astype(np.uint8).reshape(count, 2, 2, 1)
    found = Pixels.of(images)
    for some in (found.images, found.absent("images")):
        shares = torch.bincount((255 * some[:, 0, 0, 0]).round().int(), minlength=10) / len(some)
        assert shares.min() > 0.05
        assert shares.max() < 0.15
    assert len(found.images) == min(count, 500)
    assert len(found.absent("images")) == 32


def test_a_heatmap_has_its_own_scale_or_that_of_all():
    """A map that is nearly even is pale beside others, and as bright as any on a scale of its own."""
    image = np.full((4, 4, 1), 128, np.uint8)
    even = np.ones((4, 4), np.float32)
    even[0, 0] = 1.2
    peaked = np.zeros((4, 4), np.float32)
    peaked[0, 0] = 1
    common = [overlay(image, each)[0, 0].astype(int).sum() for each in (even, peaked)]
    own = [overlay(image, each, own_scale=True)[0, 0].astype(int).sum() for each in (even, peaked)]
    assert common[0] < common[1]
    assert own[0] == own[1] == common[1]
    assert (overlay(image, 10 * even, own_scale=True) == overlay(image, even, own_scale=True)).all()
    assert overlay(image, 0 * even, own_scale=True)[0, 0].tolist() == overlay(image, 0 * even)[0, 0].tolist()
