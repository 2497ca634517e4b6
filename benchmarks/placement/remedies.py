"""What else one can do about a network that does not learn: other initial weights, or normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LINEAR = (nn.Linear, nn.Conv2d)


def kaiming(net: nn.Module, inputs: Tensor) -> nn.Module:
    """Initial weights after He et al. 2015 in every linear and convolutional layer; biases 0."""
    for layer in net.modules():
        if isinstance(layer, LINEAR):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def lsuv(net: nn.Module, inputs: Tensor) -> nn.Module:
    """Layer-sequential unit variance (Mishkin and Matas 2016, arXiv 1511.06422), from one batch.

    Orthonormal weights, biases 0; then, in the order of the forward pass, each layer's weights are divided by the
    standard deviation of its output.
    """
    for layer in net.modules():
        if isinstance(layer, LINEAR):
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        deviation = output.std().clamp_min(1e-8)
        layer.weight /= deviation  # type: ignore[operator]
        return output / deviation  # biases are 0

    hooks = [layer.register_forward_hook(scale) for layer in net.modules() if isinstance(layer, LINEAR)]
    try:
        with torch.no_grad():
            net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return net


def normalised(net: nn.Module, inputs: Tensor) -> nn.Module:
    """Batch normalisation (Ioffe and Szegedy 2015) behind every linear and convolutional layer but the last.

    Networks that have normalisation, or whose layers are not called by themselves (recurrent, attention), are
    left as they are.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.RNNBase)
    if any(isinstance(module, kinds) for module in net.modules()):
        return net
    layers = [(owner, name, layer) for owner in net.modules() for name, layer in _linear_children(owner)]
    for owner, name, layer in layers[:-1]:
        conv = isinstance(layer, nn.Conv2d)
        norm = nn.BatchNorm2d(layer.out_channels) if conv else nn.BatchNorm1d(layer.out_features)
        setattr(owner, name, nn.Sequential(layer, norm))
    return net


def _linear_children(owner: nn.Module) -> list[tuple[str, Any]]:
    return [(name, child) for name, child in owner.named_children() if isinstance(child, LINEAR)]


REMEDIES: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "kaiming": kaiming,
    "lsuv": lsuv,
    "normalised": normalised,
}
