"""The normalisation of images: the same numbers, in the same places, however they are computed."""

import copy

import pytest
import torch

from fastconv.models.classifier import Normalise

MEAN, STD = (0.2, 0.5, 0.8), (0.25, 0.3, 0.1)


def by_pixels(images, channels):
    """One pixel after the other, as the definition says: float [B, C, H, W], channels_last."""
    deviation = torch.tensor(STD[:channels]).view(-1, 1, 1)
    shift = -torch.tensor(MEAN[:channels]).view(-1, 1, 1) / deviation
    return images.permute(0, 3, 1, 2) * (1 / (255 * deviation)) + shift


@pytest.mark.parametrize("channels", [1, 3])
def test_every_bit_and_place_is_that_of_pixel_by_pixel(channels):
    """For one width after the other, for parts and crops of images, and for a copy."""
    normalise = Normalise(MEAN[:channels], STD[:channels])
    images = torch.randint(256, (7, 9, 11, channels), dtype=torch.uint8)
    for taken in (images, images[:, 1:8, 2:9], images[2:5], images.flip(2), images[:, :, :5], images.transpose(1, 2)):
        for each in (normalise, copy.deepcopy(normalise)):
            found, expected = each(taken), by_pixels(taken, channels)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert torch.equal(found, expected)
    assert normalise(images).stride() == by_pixels(images, channels).stride()
    double = copy.deepcopy(normalise).double()
    torch.testing.assert_close(double(images), by_pixels(images, channels).double(), rtol=1e-6, atol=1e-6)
    assert double(images).dtype == torch.float64


def test_gradients_pass_after_images_were_scored():
    """In inference mode, whose tensors autograd does not take."""
    normalise, images = Normalise(MEAN, STD), torch.rand(2, 4, 4, 3)
    with torch.inference_mode():
        normalise(images)
    images.requires_grad_()
    normalise(images).sum().backward()
    torch.testing.assert_close(images.grad, (1 / (255 * torch.tensor(STD))).expand(2, 4, 4, 3))


def test_an_export_does_not_depend_on_it():
    normalise, images = Normalise(MEAN, STD), torch.randint(256, (2, 5, 6, 3), dtype=torch.uint8)
    normalise(images)
    count = torch.export.Dim("images", min=1)
    program = torch.export.export(normalise, (images,), dynamic_shapes=({0: count},)).module()
    more = torch.randint(256, (5, 5, 6, 3), dtype=torch.uint8)
    assert torch.equal(program(more), by_pixels(more, 3))
