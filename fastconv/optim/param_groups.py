"""Parameter groups: the trainable parameters of a network by their role."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Parts:
    """The trainable parameters of a network.

    `filters` are the weights of convolutions, `heads` the weights of linear layers, `biases` all parameters of one
    dimension, such as a batch norm's scale and bias, and `whitening` the bias of the layer that whitens patches.
    """

    filters: list["nn.Parameter"]
    heads: list["nn.Parameter"]
    biases: list["nn.Parameter"]
    whitening: list["nn.Parameter"]


def parts(model: "nn.Module") -> Parts:
    """Split the trainable parameters of a network by role. A layer called `whitening` is one that whitens patches."""
    first = getattr(model, "whitening", None)  # of somebody else's network, it may be anything
    own = {id(parameter) for parameter in getattr(first, "parameters", tuple)()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    others = [parameter for parameter in trainable if id(parameter) not in own]
    return Parts(
        filters=[parameter for parameter in others if parameter.ndim > 2],
        heads=[parameter for parameter in others if parameter.ndim == 2],
        biases=[parameter for parameter in others if parameter.ndim < 2],
        whitening=[parameter for parameter in trainable if id(parameter) in own],
    )


def decay_groups(
    model: "nn.Module",
    max_lr: float,
    weight_decay: float,
    bias_lr_scale: float = 1.0,
    whiten_bias_fraction: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups at their peak learning rates. Weights decay; biases do not, and have their own learning rate."""
    found = parts(model)
    chosen = {id(parameter) for parameter in (*found.filters, *found.heads)}
    weights = [parameter for parameter in model.parameters() if id(parameter) in chosen]  # in the network's order
    bias_lr = max_lr * bias_lr_scale
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay, "lr": max_lr, "max_lr": max_lr},
        {"params": found.biases, "weight_decay": 0.0, "lr": bias_lr, "max_lr": bias_lr},
        {
            "params": found.whitening,
            "weight_decay": 0.0,
            "lr": bias_lr,
            "max_lr": bias_lr,
            "schedule_fraction": whiten_bias_fraction,
        },
    ]
    return by_layer([group for group in groups if group["params"]], model)


def by_layer(groups: list[dict[str, Any]], model: "nn.Module") -> list[dict[str, Any]]:
    """Divide parameter groups by the layers of a network that has learning rates for them (`lr_layers`).

    Layers of the same learning rate and start stay together; without layers the groups stay as they are.
    """
    layers = model.lr_layers() if hasattr(model, "lr_layers") else []  # type: ignore[operator]
    of = {id(parameter): (each.lr_scale, each.schedule_start) for each in layers for parameter in each.parameters}
    # The head's come first, since the first group has the learning rate of the settings.
    kinds = dict.fromkeys((each.lr_scale, each.schedule_start) for each in reversed(layers))
    divided: list[dict[str, Any]] = []
    for group in groups if layers else ():
        own_kinds = {of[id(parameter)] for parameter in group["params"]}
        for scale, start in (kind for kind in kinds if kind in own_kinds):
            own = {"params": [parameter for parameter in group["params"] if of[id(parameter)] == (scale, start)]}
            rates = {"lr": scale * group["lr"], "max_lr": scale * group["max_lr"]}
            divided.append({**group, **own, **rates, **({"schedule_start": start} if start else {})})
    return divided or groups
