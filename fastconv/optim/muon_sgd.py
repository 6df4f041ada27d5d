"""The optimizer behind `Muon`."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.sgd import sgd

Number = float | Tensor

# A polynomial that moves singular values in (0, 1] towards 1, quickly but not exactly: they end between about 0.7 and
# 1.2 (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).
QUINTIC = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
# Filters that start as zeros, as the last ones of a residual block may, have no norm to keep: they are left as they are
# until an update has moved them.
LEAST_NORM = 1e-30
# Filters in a bank, up to which one thread updates it: with so few, two threads of a quiet CPU are hardly faster, and
# where something else keeps one of the cores busy, each of some hundred products waits for it (32-128-128: 154 instead
# of 15 ms for an update, on two AVX2 cores).
FEW_FILTERS = 128


class MuonSGD(torch.optim.Optimizer):
    """Muon for the groups with `muon` set, SGD with Nesterov momentum and coupled weight decay for the others.

    Filters of one shape are updated at once, and a GPU gets few kernels. A learning rate or momentum may be a tensor,
    float [], on the device of the parameters: a CUDA graph reads it anew each time.

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

    def _buffers(self, params: list[Tensor]) -> list[Tensor]:
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        return [self.state[param]["momentum_buffer"] for param in params]

    def _nesterov(self, params: list[Tensor], grads: list[Tensor], momentum: Number) -> tuple[Tensor, ...]:
        """Add gradients to the momentum buffers; return the gradients plus `momentum` times the buffers."""
        buffers = self._buffers(params)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        if isinstance(momentum, Tensor):
            return torch._foreach_add(torch._foreach_mul(buffers, momentum), grads)
        return torch._foreach_add(grads, buffers, alpha=momentum)

    def _step_muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        wanted = self._nesterov(params, _grads(params), group["momentum"])
        # Keep the norm of the filters, so that the learning rate acts as an angle.
        norms = torch._foreach_norm(params)
        torch._foreach_clamp_min_(norms, LEAST_NORM)
        scales = torch._foreach_reciprocal(norms)
        torch._foreach_mul_(scales, [len(param) ** 0.5 for param in params])
        torch._foreach_mul_(params, scales)
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for at, direction in enumerate(wanted):
            by_shape[direction.shape].append(at)
        updates = [*wanted]
        for places in by_shape.values():
            matrices = torch.stack([_as_rows(wanted[at]) for at in places])
            found = orthogonalise(matrices, self.newton_schulz_steps, self.dtype).to(matrices.dtype)
            for at, update in zip(places, found, strict=True):
                updates[at] = _as_filters(update, wanted[at])
        _move(params, updates, group["lr"])

    def _step_sgd(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        if has_few_kernels(params[0]) and not isinstance(momentum, Tensor):
            buffers = cast(list[Tensor | None], self._buffers(params))
            about: dict[str, Any] = {"weight_decay": weight_decay, "momentum": momentum, "dampening": 0.0, "lr": lr}
            sgd(params, _grads(params), buffers, fused=True, nesterov=True, maximize=False, **about)
            return
        grads = torch._foreach_add(_grads(params), params, alpha=weight_decay)
        _move(params, self._nesterov(params, list(grads), momentum), lr)


def has_few_kernels(tensor: Tensor) -> bool:
    """Whether what takes the fewest kernels is the fastest. On a CPU sums keep the order that they always had."""
    return tensor.device.type == "cuda"


def _move(params: list[Tensor], updates: Sequence[Tensor], lr: Number) -> None:
    """Subtract the updates, times the learning rate, from the parameters."""
    if isinstance(lr, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(list(updates), lr))
    else:
        torch._foreach_add_(params, list(updates), alpha=-lr)


def _follows_memory(filters: Tensor) -> bool:
    """Whether the columns of a matrix of these filters [n, C, H, W] come as they lie in memory, channels last.

    The update is then added without being copied, and the order of the columns does not matter to it.
    """
    return has_few_kernels(filters) and filters.ndim == 4 and filters.is_contiguous(memory_format=torch.channels_last)


def _as_rows(filters: Tensor) -> Tensor:
    """Filters [n, ...] as a matrix, [n, k]."""
    return (filters.permute(0, 2, 3, 1) if _follows_memory(filters) else filters).flatten(1)


def _as_filters(rows: Tensor, like: Tensor) -> Tensor:
    """The matrix that `_as_rows` made of filters, as such filters again."""
    if _follows_memory(like):
        return rows.view(len(like), *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)
    return rows.view(like.shape)


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
