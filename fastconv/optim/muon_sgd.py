"""The optimizer behind `Muon`."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# A polynomial that moves singular values in (0, 1] towards 1, quickly but not exactly: they end between about 0.7 and
# 1.2 (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).
QUINTIC = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
# Filters in a bank, up to which one thread updates it: with so few, two threads of a quiet CPU are hardly faster, and
# where something else keeps one of the cores busy, each of some hundred products waits for it (32-128-128: 154 instead
# of 15 ms for an update, on two AVX2 cores).
FEW_FILTERS = 128


class MuonSGD(torch.optim.Optimizer):
    """Muon for the groups with `muon` set, SGD with Nesterov momentum and coupled weight decay for the others.

    Args:
        groups: parameter groups with `params`, `lr`, `momentum`, `weight_decay` and `muon`.
        newton_schulz_steps: steps of the iteration.
        dtype: dtype of the iteration.
    """

    def __init__(self, groups: list[dict[str, Any]], newton_schulz_steps: int, dtype: torch.dtype) -> None:
        super().__init__(groups, {})
        self.newton_schulz_steps, self.dtype = newton_schulz_steps, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params: list[Tensor] = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            with _threads(params):
                if group["muon"]:
                    self._step_muon(params, group)
                else:
                    self._step_sgd(params, group)
        return loss

    def _nesterov(self, params: list[Tensor], grads: Sequence[Tensor], momentum: float) -> tuple[Tensor, ...]:
        """Add gradients to the momentum buffers; return the gradients plus `momentum` times the buffers."""
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        buffers = [self.state[param]["momentum_buffer"] for param in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, list(grads))
        return torch._foreach_add(list(grads), buffers, alpha=momentum)

    def _step_muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        wanted = self._nesterov(params, _grads(params), group["momentum"])
        # Keep the norm of the filters, so that the learning rate acts as an angle.
        norms = torch._foreach_norm(params)
        scales = [len(param) ** 0.5 / norm for param, norm in zip(params, norms, strict=True)]
        torch._foreach_mul_(params, scales)
        by_shape = defaultdict(list)
        for param, direction in zip(params, wanted, strict=True):
            by_shape[direction.shape].append((param, direction))
        for shape, pairs in by_shape.items():
            matrices = torch.stack([direction.flatten(1) for _, direction in pairs])
            updates = orthogonalise(matrices, self.newton_schulz_steps, self.dtype)
            for (param, _), update in zip(pairs, updates, strict=True):
                param.add_(update.view(shape).to(param.dtype), alpha=-group["lr"])

    def _step_sgd(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = torch._foreach_add(_grads(params), params, alpha=group["weight_decay"])
        torch._foreach_add_(params, self._nesterov(params, grads, group["momentum"]), alpha=-group["lr"])


@contextlib.contextmanager
def _threads(params: list[Tensor]) -> Iterator[None]:
    """Within the block, a CPU uses as many threads as parameters of this size are worth."""
    threads = torch.get_num_threads()
    if threads == 1 or params[0].device.type != "cpu" or max(map(len, params)) > FEW_FILTERS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [param.grad for param in params if param.grad is not None]


def orthogonalise(matrices: Tensor, steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Move the singular values of matrices towards 1 and keep their singular vectors, by a Newton-Schulz iteration.

    Args:
        matrices: float [N, rows, columns].
        steps: number of steps of the iteration.
        dtype: dtype of the computation.

    Returns matrices of the same shape, in `dtype`. A matrix of zeros stays zero.
    """
    a, b, c = QUINTIC
    x: Tensor = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + EPS)  # no singular value is above 1 now
    x = x.to(dtype)
    upright = x.shape[-2] > x.shape[-1]
    if upright:  # transpose, so that the product below is the smaller one
        x = x.mT
    if dtype == torch.float32 and 2 * x.shape[-2] <= x.shape[-1]:
        x = _polynomials(x, steps) @ x
    else:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if upright else x


def _polynomials(x: Tensor, steps: int) -> Tensor:
    """The product [N, rows, rows] of the polynomials by which the steps multiply wide matrices x [N, rows, columns].

    All of them are polynomials of the first x @ x.mT, and so commute: the x of a step need not be computed. That leaves
    two products with the columns of x instead of two for each step. bf16 is not precise enough for it.
    """
    a, b, c = QUINTIC
    gram, product = x @ x.mT, torch.empty(0)
    for step in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial @ product if step else polynomial
        if step + 1 < steps:
            gram = polynomial @ gram @ polynomial
    return product
