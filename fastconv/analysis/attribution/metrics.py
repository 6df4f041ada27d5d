"""Measures of attribution maps, image by image.

Maps are float [N, H, W]: the signed attribution of each pixel, summed over its channels.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from captum.metrics import infidelity, sensitivity_max
from scipy.stats import rankdata
from torch import Tensor

from fastconv.analysis.attribution.attribution import Attributor
from fastconv.analysis.attribution.network import PixelNetwork
from fastconv.analysis.scoring import batches
from fastconv.data.dataset import images_at_once


def deletion_and_insertion(
    network: PixelNetwork,
    inputs: Tensor,
    maps: Tensor,
    target: Tensor,
    absent: Tensor,
    steps: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
    """Return areas under the target's probability while the strongest pixels go, or come: float64 [N] each in [0, 1].

    In `steps` equal parts, pixels are replaced by `absent` (float [1, C, 1, 1]) in the map's order, or put back into an
    image of it. A faithful map has a small area for deletion and a large one for insertion (Petsiuk et
    al. 2018, arXiv 1806.07421, section 3.3).
    """
    count, channels, height, width = inputs.shape
    place = torch.argsort(torch.argsort(maps.flatten(1), dim=1, descending=True, stable=True), dim=1)
    bounds = torch.linspace(0, height * width, steps + 1).round().to(place)
    areas, at_once = [], images_at_once(inputs.shape[1:])
    for part in batches(count, max(1, at_once // (2 * (steps + 1)))):
        first = (place[part, None] < bounds[:, None]).view(-1, steps + 1, 1, height, width)
        images, baseline = inputs[part, None], absent[None]
        copies = torch.stack([torch.where(first, baseline, images), torch.where(first, images, baseline)], dim=1)
        with torch.no_grad():
            logits = [network(some) for some in copies.view(-1, channels, height, width).split(at_once)]
        chances = torch.cat(logits).softmax(1)
        chances = chances.view(-1, 2 * (steps + 1), chances.shape[1])
        rows = torch.arange(len(chances), device=target.device)
        curves = chances[rows, :, target[part]].view(-1, 2, steps + 1).cpu().double()
        areas.append(torch.trapezoid(curves, dx=1 / steps, dim=2))
    found = torch.cat(areas).numpy()
    return found[:, 0], found[:, 1]


def relative_infidelity(
    network: PixelNetwork,
    attributor: Attributor,
    inputs: Tensor,
    attributions: Tensor,
    target: Tensor,
    absent: Tensor,
    samples: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Return the share of the logit's changes that a map does not predict when squares are removed, float64 [N].

    Captum's infidelity (Yeh et al. 2019, arXiv 1901.09392) with the best factor for each image, over that of a map of
    zeros: 0 for a map that is proportional to every change, whatever its sign, 1 for one that predicts nothing, NaN
    where no square changes anything. So networks with logits of different size can be compared. The squares have a
    quarter of the image's side.
    """
    count, channels, height, width = inputs.shape
    side = max(1, min(height, width) // 4)

    def remove_squares(some: Tensor) -> tuple[Tensor, Tensor]:
        tops = torch.randint(0, height - side + 1, (len(some), 1, 1, 1), device=some.device)
        lefts = torch.randint(0, width - side + 1, (len(some), 1, 1, 1), device=some.device)
        rows = torch.arange(height, device=some.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=some.device).view(1, 1, 1, -1)
        square = (rows >= tops) & (rows < tops + side) & (columns >= lefts) & (columns < lefts + side)
        removed = torch.where(square, absent, some)
        # A local method attributes the change of a pixel, another its absence.
        return (some - removed if attributor.is_local else square.to(some).expand_as(some)), removed

    spread = attributions if attributions.shape[1] == channels else attributions.expand_as(inputs) / channels
    found = []
    for part in batches(count, max(1, images_at_once(inputs.shape[1:]) // samples)):
        errors = []
        for map_, normalize in ((spread[part], True), (torch.zeros_like(inputs[part]), False)):
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed + part.start)  # the same squares for every map
                errors.append(
                    infidelity(
                        network,
                        remove_squares,
                        inputs[part],
                        map_,
                        target=target[part],
                        n_perturb_samples=samples,
                        normalize=normalize,
                    )
                )
        spread_of_changes = errors[1].cpu().double()  # an Apple GPU has no float64
        share = errors[0].cpu().double() / spread_of_changes
        found.append(torch.where(spread_of_changes > 0, share, torch.nan))
    return torch.cat(found).cpu().numpy()


def max_sensitivity(
    attributor: Attributor, inputs: Tensor, target: Tensor, radius: float = 0.02, samples: int = 3, seed: int = 0
) -> np.ndarray:
    """Return the largest relative change of a map when no pixel changes by more than `radius`, float64 [N].

    Captum's sensitivity_max (Yeh et al. 2019), over `samples` changed copies of each image.
    """
    found = []
    for part in batches(len(inputs), attributor.images_at_once):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(
                sensitivity_max(
                    lambda some, target: (attributor(some[0], target),),
                    (inputs[part],),
                    perturb_radius=radius,
                    n_perturb_samples=samples,
                    max_examples_per_batch=part.stop - part.start,  # as many as before draw the same noise
                    target=target[part],
                )
            )
    return torch.cat(found).cpu().double().numpy()


def share_on(maps: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Return the share of each map's positive part, the evidence for the class, in an area bool [N, H, W]; float64 [N].

    NaN for a map without evidence.
    """
    positive = np.clip(maps, 0, None).astype(np.float64)
    total = positive.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, (positive * area).sum(axis=(1, 2)) / total, np.nan)


def half_area(maps: np.ndarray) -> np.ndarray:
    """Return the area that holds half of the attribution: share of the pixels, strongest first, float64 [N].

    The attribution is the absolute sum of a map.

    Small for a concentrated map, 0.5 for an even one; NaN for a map of zeros.
    """
    strengths = np.sort(np.abs(maps).reshape(len(maps), -1).astype(np.float64), axis=1)[:, ::-1]
    held = np.cumsum(strengths, axis=1)
    total = held[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        count = (held < total / 2).sum(axis=1) + 1
        return np.where(total[:, 0] > 0, count / strengths.shape[1], np.nan)


def rank_correlation(first: np.ndarray, second: np.ndarray, area: np.ndarray | None = None) -> np.ndarray:
    """Return Spearman's correlation of the signed values of two maps of each image, float64 [N].

    Only pixels in `area`, bool [N, H, W], count, and of those the ones where not both maps are zero. NaN where a map is
    constant or fewer than three pixels are left.
    """
    found = np.full(len(first), np.nan)
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        inside = (one != 0) | (other != 0)
        if area is not None:
            inside &= area[row]
        if inside.sum() >= 3:
            with np.errstate(invalid="ignore"):  # a constant map has no correlation
                found[row] = np.corrcoef(rankdata(one[inside]), rankdata(other[inside]))[0, 1]
    return found


def random_maps(count: int, size: tuple[int, int], grid: tuple[int, int], seed: int) -> Tensor:
    """Draw random heatmaps, float [N, H, W], as coarse as those of a method with `grid` positions."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 1, *grid, generator=generator)
    return F.interpolate(noise, size, mode="bilinear")[:, 0]


def randomised(network: PixelNetwork, build: Callable[[], torch.nn.Module], images: Tensor, seed: int) -> PixelNetwork:
    """Return the network with new initial weights (Adebayo et al. 2018, arXiv 1810.03292, all layers at once).

    Args:
        network: the trained one, for its normalisation.
        build: makes an untrained network.
        images: pixels float [N, C, H, W] from which batch norm takes its statistics: without any, an untrained
            network's maps would be those of one that is dead.
        seed: of the weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().to(images)
    mean, std = (tuple(values.flatten().tolist()) for values in (network.mean, network.std))
    fresh = PixelNetwork(model, mean, std)
    fresh = fresh.to(images.device)
    fresh.train()
    for layer in fresh.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = None  # a cumulative mean
            layer.train()  # a pretrained network keeps its statistics, which are not those of new weights
    with torch.no_grad():
        # In equal parts, since batch norm has no statistics of a single value.
        for some in images.tensor_split(-(-len(images) // images_at_once(images.shape[1:]))):
            fresh(some)
    return fresh.eval()
