"""Whether a mirrored image is an image of the same class: asked of a small network that has seen none."""

import torch
import torch.nn.functional as F

from fastconv.config import Airbench
from fastconv.data.images import ImageData, mean_and_std, stratified_split
from fastconv.device import Device
from fastconv.module import ImageClassifier
from fastconv.optim import Muon
from fastconv.run import model_settings

BATCH_SIZE, HELD, SCORED_AT_ONCE = 125, 1000, 500
WHITENING_IMAGES = 1000
LEAST_STEPS = 10


def mirrored_accuracy(data: ImageData, network: Airbench, device: Device, images: int) -> tuple[float, float]:
    """Accuracy on held-out training images as they are, and on the same images mirrored left to right.

    The network learns from `images` others, as they are; its learning rate falls to zero in a line. Leaves the random
    state as it is.
    """
    kept, held = stratified_split(data, min(0.5, HELD / len(data)), seed=0)
    some = data.images[kept[:WHITENING_IMAGES]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape, settings = data.images.shape[1:], model_settings(network)
        module = ImageClassifier(network.name, settings, shape, data.classes, *mean_and_std(some))
    module.whiten(some)
    module.to(device.kind)

    def batch(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at = rows.numpy()
        return torch.from_numpy(data.images[at]).to(device.kind), torch.from_numpy(data.labels[at]).to(device.kind)

    optimizer = Muon().build(module.model, BATCH_SIZE, device.precision)
    generator, steps = torch.Generator().manual_seed(0), max(LEAST_STEPS, images // BATCH_SIZE)
    for step in range(steps):
        inputs, labels = batch(torch.from_numpy(kept)[torch.randint(len(kept), (BATCH_SIZE,), generator=generator)])
        for group in optimizer.param_groups:
            group["lr"] = group["max_lr"] * (1 - step / steps)
        with device.autocast():
            loss = F.cross_entropy(module(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()
    plain = mirrored = 0
    with torch.no_grad(), device.autocast():
        for rows in torch.from_numpy(held).split(SCORED_AT_ONCE):
            inputs, labels = batch(rows)
            plain += int((module(inputs).argmax(1) == labels).sum())
            mirrored += int((module(inputs.flip(2)).argmax(1) == labels).sum())
    return plain / len(held), mirrored / len(held)
