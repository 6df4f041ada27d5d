"""The network and the module around it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastconv.models import build_model, count_parameters
from fastconv.optim import SGD
from fastconv.optim.param_groups import decay_groups
from fastconv.training.module import ImageClassifier


@pytest.mark.parametrize(("channels", "parameters"), [(3, 6_573_120), (1, 6_571_968)])
def test_parameter_counts(channels, parameters):
    model = build_model("davidnet", channels, 10)
    assert count_parameters(model) == parameters
    # With the running means and variances, but not the counters of batches.
    buffers = sum(buffer.numel() for buffer in model.buffers() if buffer.ndim)
    assert buffers == 4480, "for colours, 6,577,600 numbers together"


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 32), (3, 33)])
def test_any_image_size(channels, side):
    logits = build_model("davidnet", channels, 7, width=4)(torch.randn(2, channels, side, side))
    assert logits.shape == (2, 7)


def test_forward_is_the_published_network():
    """Layer by layer, from the description of the network, with functions alone."""
    model = build_model("davidnet", 3, 10, width=4).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    state = model.state_dict()
    images = torch.randn(3, 3, 32, 32)

    def block(x, name):
        x = F.conv2d(x, state[f"{name}.0.weight"], padding=1)
        norm = [state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *norm))

    def residual(x, name):
        return x + block(block(x, f"{name}.block1"), f"{name}.block2")

    x = block(images, "prep")
    x = residual(F.max_pool2d(block(x, "layer1.0"), 2), "layer1.1")
    x = F.max_pool2d(block(x, "layer2"), 2)
    x = residual(F.max_pool2d(block(x, "layer3.0"), 2), "layer3.1")
    expected = F.linear(F.max_pool2d(x, 4).flatten(1), state["linear.weight"]) * 0.125
    torch.testing.assert_close(model(images), expected)


def classifier(**changes) -> ImageClassifier:
    settings = {
        "model": "davidnet",
        "settings": {"width": 4},
        "shape": (16, 12, 3),
        "classes": ("a", "b", "c"),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.2, 0.3),
        "optimizer": SGD().build,
    }
    return ImageClassifier(**{**settings, **changes})


def test_normalises_raw_images():
    module = classifier().eval()
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 16, 12, 3), np.uint8))
    normalised = (raw.double() / 255 - torch.tensor((0.5, 0.4, 0.3))) / torch.tensor((0.25, 0.2, 0.3))
    expected = module.model(normalised.float().permute(0, 3, 1, 2).contiguous())
    torch.testing.assert_close(module(raw), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_training_loss_and_running_scores(smoothing):
    module = classifier(label_smoothing=smoothing)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 16, 12, 3), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss, sums = module.learn(images, labels)
    log_shares = module(images).log_softmax(1)
    share = F.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    torch.testing.assert_close(loss, -(share * log_shares).sum(1).mean())
    module.train_sums += sums + module.learn(images, labels)[1]
    mean_loss, accuracy = module.take_train_scores()
    assert mean_loss == pytest.approx(loss.item(), rel=1e-5)
    assert accuracy == pytest.approx(float((log_shares.argmax(1) == labels).float().mean()))
    assert module.take_train_scores() == (0, 0), "reading clears"


def test_compiling_changes_nothing_but_speed(monkeypatch):
    """Weights, gradients, statistics and scores are as before, and so is the next step."""
    compiled, plain = classifier(), classifier()
    plain.load_state_dict(compiled.state_dict())
    compile_eagerly = torch.compile
    asked = []

    def compile_as_asked(work, **settings):
        asked.append(settings)
        return compile_eagerly(work, backend="eager", **settings)

    monkeypatch.setattr(torch, "compile", compile_as_asked)
    images = torch.randint(256, (6, 16, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = images, torch.tensor([0, 1, 2, 0, 1, 2])
    compiled.compile_training((torch.zeros_like(images), torch.zeros_like(batch[1])))
    assert asked == [{"dynamic": False}]
    assert all(parameter.grad is None for parameter in compiled.parameters())
    for a, b in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for module in (compiled, plain):
        loss, sums = module.learn(*batch)
        loss.backward()
        module.train_sums += sums
    for a, b in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert compiled.take_train_scores() == pytest.approx(plain.take_train_scores())


def test_norms_and_biases_do_not_decay():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    model[3].weight.requires_grad_(False)
    weights, others = decay_groups(model, 1.0, 0.1)
    assert weights["params"] == [model[0].weight]
    assert weights["weight_decay"] == 0.1
    assert {id(parameter) for parameter in others["params"]} == {
        id(parameter) for parameter in (model[0].bias, model[1].weight, model[1].bias, model[3].bias)
    }
    assert others["weight_decay"] == 0
    optimizer = SGD(max_lr=0.3, momentum=0.8, nesterov=False).build(model)
    assert [group["max_lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert optimizer.defaults["momentum"] == 0.8
    assert not optimizer.defaults["nesterov"]


def test_unknown_network():
    with pytest.raises(KeyError):
        build_model("nonet", 3, 10)
