"""The temperature, against logits whose temperature is known."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from fastconv.models.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_on_training_images,
    fit_temperature,
    without_smoothing,
)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 50])
def test_it_is_the_one_that_the_labels_were_drawn_with(temperature, classes):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(8000, classes, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    before, after = (
        multiclass_calibration_error((logits / each).softmax(1), labels, num_classes=classes, n_bins=15)
        for each in (1.0, found)
    )
    assert after < 0.02
    assert temperature == 1.0 or after < before / 3


def test_predictions_are_as_confident_as_they_are_often_right():
    """Also of a network that is wrong about how, so that the least cross-entropy would make it too sure."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, 10, generator=generator)
    true = (0.9 * (2 * logits).softmax(1) + 0.1 / 10).double()
    labels = torch.multinomial(true, 1, generator=generator)[:, 0]
    right = (logits.argmax(1) == labels).double().mean().item()
    scaled = (logits.double() / fit_temperature(logits, labels)).softmax(1).amax(1).mean().item()
    assert scaled == pytest.approx(right, abs=1e-3)
    steps = torch.linspace(-3, 3, 601).exp()
    surprise = [torch.nn.functional.cross_entropy(logits / each, labels) for each in steps]
    least = steps[int(torch.stack(surprise).argmin())]
    assert abs((logits / least).softmax(1).amax(1).mean().item() - right) > 0.005


@pytest.mark.parametrize("wrong", [False, True])
def test_networks_that_are_never_or_always_wrong_get_a_temperature(wrong):
    logits = torch.eye(5).repeat(8, 1)
    labels = (torch.arange(5).repeat(8) + wrong) % 5
    found = fit_temperature(logits, labels)
    assert MIN_TEMPERATURE <= found <= MAX_TEMPERATURE
    confidence = (logits / found).softmax(1).amax(1).mean().item()
    assert confidence == pytest.approx(1 / 5 if wrong else 1 - 1 / 42 * 4 / 5, abs=1e-3)


def test_a_few_images_that_are_all_right_do_not_make_it_certain():
    logits = torch.eye(5).repeat(4, 1)
    labels = torch.arange(5).repeat(4)
    found = fit_temperature(logits, labels)
    wrong = 1 - float((logits / found).softmax(1)[0, 0])
    assert found > 2 * MIN_TEMPERATURE
    assert wrong == pytest.approx(1 / 22 * 4 / 5, rel=0.01), (
        "one of the 20 images and two more, spread over the classes"
    )


def test_smoothing_is_taken_out():
    wanted = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2]]).double()
    smoothed = 0.7 * wanted + 0.3 / 3
    torch.testing.assert_close(without_smoothing(smoothed.log(), 0.3), wanted)


def test_labels_of_training_images_count_the_less_the_more_often_they_were_seen():
    """Logits of a network that is right about smoothed labels, and labels of which it knows each by heart."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 10, generator=generator)
    true = (2.5 * logits).softmax(1)
    smoothed = (0.8 * true + 0.2 / 10).log()
    honest = torch.multinomial(true, 1, generator=generator)[:, 0]
    learned = true.argmax(1)
    unseen, often, always = (fit_on_training_images(smoothed, learned, 0.2, epochs) for epochs in (1, 23.5, 1000))
    assert unseen == pytest.approx(fit_temperature(smoothed, learned))
    assert often == pytest.approx((unseen * always) ** 0.5), "half of the way"
    assert always == pytest.approx(fit_temperature(smoothed, honest), rel=0.1), "that of images which it has not seen"
    assert unseen < 0.8 * always
