"""Optimizers: against formulas in float64, against torch's own, and in training."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastconv.data.loading import load
from fastconv.models import build_model
from fastconv.optim import OPTIMIZERS, SGD, AdamW, Muon
from fastconv.optim.momentum import momentum_of, set_momentum
from fastconv.optim.muon_sgd import MuonSGD, orthogonalise

SHAPES = [(16, 27), (64, 64), (40, 12)]


def matrices(shape: tuple[int, int], count: int = 3) -> torch.Tensor:
    """Matrices float64 [count, *shape] whose singular values are between 0.1 and 1 times the largest."""
    generator = torch.Generator().manual_seed(shape[0])
    noise = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    return 5 * left @ torch.diag(torch.linspace(1, 0.1, min(shape), dtype=torch.float64)) @ right


def polar(matrix: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrix nearest to a matrix."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_newton_schulz_is_the_polynomial_of_the_singular_values(shape, dtype):
    """In float64: the singular value decomposition, with the published quintic applied to the values three times."""
    given = matrices(shape)
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    values = values / values.square().sum(-1, keepdim=True).sqrt()
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = left @ torch.diag_embed(values) @ right
    found = orthogonalise(given.float(), 3, dtype)
    assert found.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_newton_schulz_approaches_the_polar_factor(shape):
    """Within the published tolerance: after five steps all singular values are between about 0.7 and 1.2."""
    given = matrices(shape)
    found = orthogonalise(given.float(), 5).double()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.65
    assert values.max() < 1.25
    for matrix, result in zip(given, found, strict=True):
        assert torch.linalg.matrix_norm(result - polar(matrix), ord=2) < 0.35
        # The same singular vectors: between it and the polar factor lies a symmetric matrix.
        between = result @ polar(matrix).mT
        torch.testing.assert_close(between, between.mT, rtol=0, atol=1e-3)


def test_no_gradient_is_no_update():
    assert orthogonalise(torch.zeros(2, 4, 6), 3).count_nonzero() == 0


def test_muon_against_a_loop():
    """Filters one by one, in float64, by the published rule; everything else by torch's SGD on the summed loss."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False),
        torch.nn.BatchNorm2d(8),
        torch.nn.Conv2d(8, 8, 3, bias=False),
        torch.nn.Conv2d(8, 8, 3, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 2 * 2, 5, bias=False),
    )
    model.logits_scale = 1 / 256  # for which head_lr is meant
    model.to(memory_format=torch.channels_last)
    other = copy.deepcopy(model).double()
    muon = Muon(max_lr=0.1, bias_lr=0.01, head_lr=0.02)
    batch = 6
    ours = muon.build(model, batch_size=batch)
    filters = [layer.weight for layer in other if isinstance(layer, torch.nn.Conv2d)]
    by_sgd = [
        {"params": list(other[1].parameters()), "lr": 0.01, "weight_decay": 2e-6 * batch / 0.01},
        {"params": [other[5].weight], "lr": 0.02, "weight_decay": 2e-6 * batch / 0.02},
    ]
    sgd = torch.optim.SGD(by_sgd, lr=1.0, momentum=0.85, nesterov=True)
    buffers = [torch.zeros_like(weight) for weight in filters]
    for step in range(4):
        images = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        labels = torch.arange(batch) % 5
        ours.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        ours.step()
        other.zero_grad()
        F.cross_entropy(other(images.double()), labels, reduction="sum").backward()
        sgd.step()
        with torch.no_grad():
            for weight, buffer in zip(filters, buffers, strict=True):
                buffer.mul_(0.6).add_(weight.grad)
                wanted = weight.grad + 0.6 * buffer
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                left, values, right = torch.linalg.svd(wanted.reshape(len(weight), -1), full_matrices=False)
                values = values / values.norm()
                for _ in range(3):
                    values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
                weight.sub_(0.1 * (left @ torch.diag(values) @ right).reshape(weight.shape))
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


def test_muon_takes_the_bias_of_a_linear_layer_for_a_weight():
    """One whose input is always 1: a layer with a bias learns what one with a further input learns."""
    torch.manual_seed(0)
    layer, further = torch.nn.Linear(4, 3), torch.nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        further.weight.copy_(torch.cat([layer.weight, layer.bias[:, None]], 1))
    ours, theirs = (Muon(head_lr=5000.0, weight_decay=1e-4).build(each, batch_size=8) for each in (layer, further))
    inputs, labels = torch.randn(8, 4), torch.arange(8) % 3
    for _ in range(5):
        for optimizer, model, given in ((ours, layer, inputs), (theirs, further, F.pad(inputs, (0, 1), value=1.0))):
            optimizer.zero_grad()
            F.cross_entropy(model(given), labels).backward()
            optimizer.step()
    torch.testing.assert_close(torch.cat([layer.weight, layer.bias[:, None]], 1), further.weight)


@pytest.mark.parametrize(("filters", "threads"), [(128, 1), (129, 3)])
def test_small_banks_of_filters_are_updated_by_one_thread(filters, threads, monkeypatch):
    """Also where an update fails, the number of threads is what it was before."""
    before, seen = torch.get_num_threads(), []
    model = torch.nn.Conv2d(2, filters, 3, bias=False)
    optimizer = Muon().build(model)
    model.weight.grad = torch.ones_like(model.weight)

    def note(matrices, steps, dtype):
        seen.append(torch.get_num_threads())
        if len(seen) > 1:
            raise RuntimeError("stop")
        return matrices

    monkeypatch.setattr("fastconv.optim.muon_sgd.orthogonalise", note)
    torch.set_num_threads(3)
    try:
        optimizer.step()
        with pytest.raises(RuntimeError, match="stop"):
            optimizer.step()
        assert (seen, torch.get_num_threads()) == ([threads, threads], 3)
    finally:
        torch.set_num_threads(before)


def test_muon_holds_the_norm_of_filters():
    model = torch.nn.Conv2d(4, 9, 3, bias=False)
    optimizer = Muon().build(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    model.weight.grad = torch.randn_like(model.weight)
    optimizer.step()
    assert model.weight.norm().item() == pytest.approx(3.0, rel=1e-6)


def test_filters_that_start_as_zeros_are_learned():
    model, norms = torch.nn.Conv2d(4, 9, 3, bias=False), []
    torch.nn.init.zeros_(model.weight)
    optimizer = Muon().build(model)
    for lr in (0.24, 0.0):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        norms.append(model.weight.norm().item())
    assert 0.7 * 0.24 < norms[0] < 1.2 * 0.24  # one singular value, near 1
    assert norms[1] == pytest.approx(3.0)  # then they have a norm, which is held


@pytest.mark.parametrize("optimizer", [Muon(), SGD(), AdamW()])
def test_a_flag_called_whitening_is_no_layer(optimizer):
    model = torch.nn.Conv2d(4, 9, 3)
    model.whitening = True
    assert sum(len(group["params"]) for group in optimizer.build(model).param_groups) == 2


class Whitened(torch.nn.Module):
    """A network with each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.whitening = torch.nn.Conv2d(1, 4, 2)
        self.whitening.weight.requires_grad_(False)
        self.logits_scale = 1 / 256
        self.conv = torch.nn.Conv2d(4, 4, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.linear = torch.nn.Linear(4, 3)


def roles(model: Whitened, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]


def test_groups_of_each_optimizer():
    model = Whitened()
    biases = {"norm.weight", "norm.bias", "linear.bias"}
    sgd = SGD(max_lr=0.3, bias_lr_scale=64, whiten_bias_fraction=0.2).build(model)
    assert roles(model, sgd) == [{"conv.weight", "linear.weight"}, biases, {"whitening.bias"}]
    assert [group["max_lr"] for group in sgd.param_groups] == pytest.approx([0.3, 19.2, 19.2])
    assert [group["weight_decay"] for group in sgd.param_groups] == [5e-4, 0, 0]
    assert [group.get("schedule_fraction", 1) for group in sgd.param_groups] == [1, 1, 0.2]
    muon = Muon().build(model, batch_size=2000)
    head = {"linear.weight", "linear.bias"}
    assert roles(model, muon) == [{"conv.weight"}, biases - head, head, {"whitening.bias"}]
    assert [group["max_lr"] for group in muon.param_groups] == pytest.approx([0.24, 106, 1340, 106])
    # What decays in a step is the same for all of them.
    assert [group["max_lr"] * group["weight_decay"] for group in muon.param_groups[1:]] == pytest.approx([0.004] * 3)
    assert [momentum_of(group) for group in muon.param_groups] == [0.6, 0.85, 0.85, 0.85]
    assert muon.param_groups[3]["schedule_fraction"] == 0.375
    model.logits_scale = 1 / 64
    assert Muon().build(model, batch_size=2000).param_groups[2]["max_lr"] == pytest.approx(1340 / 16)
    assert muon.dtype == torch.float32
    assert Muon().build(model, precision="bf16").dtype == torch.bfloat16
    adamw = AdamW(momentum=0.8, beta2=0.9, eps=1e-5, weight_decay=0.3, bias_lr_scale=2).build(model)
    assert roles(model, adamw) == roles(model, sgd)
    assert [group["max_lr"] for group in adamw.param_groups] == pytest.approx([3e-3, 6e-3, 6e-3])
    assert {(group["betas"], group["eps"]) for group in adamw.param_groups} == {((0.8, 0.9), 1e-5)}
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0, 0]


@pytest.mark.parametrize("classes", [20, 100, 1000])
def test_many_classes_are_learned_as_fast_as_ten(classes):
    """What a step adds to the logit of an image's own class, where each class has its own feature and two images."""

    def gain(count: int) -> float:
        model = torch.nn.Sequential(torch.nn.Linear(count, count, bias=False))
        torch.nn.init.zeros_(model[0].weight)
        images, labels = torch.eye(count).repeat(2, 1), torch.arange(count).repeat(2)
        optimizer = Muon().build(model, batch_size=200)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return float(model(images)[torch.arange(len(labels)), labels].mean().detach())

    assert gain(classes) == pytest.approx(gain(10), rel=0.12)


def test_momentum_by_any_name():
    for optimizer, name in ((AdamW().build(Whitened()), "betas"), (SGD().build(Whitened()), "momentum")):
        group = optimizer.param_groups[0]
        set_momentum(group, 0.7)
        assert momentum_of(group) == 0.7
        assert name in group


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    """Real images float [B, 1, 8, 8] and their labels."""
    train, _ = load("digits", tmp_path_factory.mktemp("digits"))
    images = torch.from_numpy(train.images[:512].copy()).permute(0, 3, 1, 2).float() / 255
    return images - images.mean(), torch.from_numpy(train.labels[:512].copy())


def learn(model, optimizer, digits, steps: int) -> list[float]:
    images, labels = digits
    losses = []
    for step in range(steps):
        rows = slice(step % 4 * 128, step % 4 * 128 + 128)
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learns_digits(name, digits):
    torch.manual_seed(0)
    model = build_model("davidnet", 1, 10, width=8)
    losses = learn(model, OPTIMIZERS[name]().build(model, 128), digits, 24)
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_muon_goes_on_from_its_saved_state(digits):
    """Bit for bit, and its state is nothing that loading could execute."""
    torch.manual_seed(0)
    model = build_model("davidnet", 1, 10, width=4)
    optimizer = Muon().build(model, 128)
    learn(model, optimizer, digits, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    other = copy.deepcopy(model)
    again = Muon().build(other, 128)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert isinstance(again, MuonSGD)
    assert learn(model, optimizer, digits, 2) == learn(other, again, digits, 2)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matrices_are_made_orthogonal_at_once_as_each_alone(shape, dtype):
    given = matrices(shape).to(dtype)
    together = orthogonalise(given, 3, dtype)
    for matrix, found in zip(given, together, strict=True):
        torch.testing.assert_close(found, orthogonalise(matrix[None], 3, dtype)[0], rtol=0, atol=1e-5)


def updated(steps: int, as_tensors: bool = False, **given) -> list[torch.Tensor]:
    """The parameters of a network after steps of Muon, on gradients of noise."""
    torch.manual_seed(0)
    model = build_model("airbench", 3, 10, widths=[8, 16, 16]).to(memory_format=torch.channels_last)
    optimizer = Muon(**given).build(model, batch_size=100)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            lr, momentum = group["max_lr"] / (step + 1), 0.5 + 0.1 * step
            group["lr"] = torch.tensor(lr) if as_tensors else lr
            group["momentum"] = torch.tensor(momentum) if as_tensors else momentum
            for param in group["params"]:
                noise = 0.01 * torch.randn(param.shape, generator=generator)
                param.grad = torch.empty_like(param).copy_(noise)  # in the memory format of the parameter
        optimizer.step()
    return [param.detach() for param in model.parameters() if param.requires_grad]


def test_few_kernels_update_as_many_do(monkeypatch):
    """What a GPU computes, on a CPU."""
    expected, calls = updated(4), []
    monkeypatch.setattr("fastconv.optim.muon_sgd.has_few_kernels", lambda tensor: calls.append(tensor) or True)
    for found, wanted in zip(updated(4), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert calls


@pytest.mark.parametrize("few", [False, True])
def test_learning_rates_and_momenta_may_be_tensors(few, monkeypatch):
    expected = updated(4)
    monkeypatch.setattr("fastconv.optim.muon_sgd.has_few_kernels", lambda tensor: few)
    for found, wanted in zip(updated(4, as_tensors=True), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
