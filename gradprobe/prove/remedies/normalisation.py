"""Normalisation put into a network that has none."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gradprobe.network.layers import NORMALISATIONS
from gradprobe.prove.remedies.layers import LINEAR_LAYERS, PlainLayer

_LEFT_AS_IT_IS = (*NORMALISATIONS, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


class ChannelsLast(nn.Module):
    """Batch normalisation of ``(N, ..., C)``, as a linear layer returns it.

    Args:
        features: C.

    Example:
        >>> import torch
        >>> x = ChannelsLast(3)(torch.arange(24.0).reshape(2, 4, 3))
        >>> x.shape, round(x.mean().item(), 3)
        (torch.Size([2, 4, 3]), 0.0)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        normalised: Tensor = self.norm(x.flatten(0, -2))
        return normalised.view_as(x)


def normalised(model: nn.Module, inputs: Any = None) -> None:
    """Put batch normalisation (Ioffe and Szegedy 2015) after every linear and convolutional layer but the last.

    Each such layer becomes a ``Sequential`` of itself and the normalisation, so the names inside it change. A
    network that has normalisation already, or recurrent layers or attention, is left as it is.

    Args:
        model: Changed in place.
        inputs: Not used.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> normalised(net)
        >>> [type(module).__name__ for module in net]
        ['Sequential', 'ReLU', 'Linear']
    """
    if any(isinstance(module, _LEFT_AS_IT_IS) for module in model.modules()):
        return
    layers = [module for module in model.modules() if isinstance(module, LINEAR_LAYERS)]
    for owner, name, layer in [(o, name, child) for o in model.modules() for name, child in o.named_children()]:
        if isinstance(layer, LINEAR_LAYERS) and layer is not layers[-1]:
            norm = _norm_for(layer).to(layer.weight.device, layer.weight.dtype)
            owner.register_module(name, nn.Sequential(layer, norm).train(layer.training))


def _norm_for(layer: PlainLayer) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return ChannelsLast(layer.out_features)
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return kinds[len(layer.kernel_size)](layer.out_channels)
