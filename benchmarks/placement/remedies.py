"""What else one can do about a network that does not learn: what gradprobe advises, and normalisation."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradprobe import remedies

LINEAR = (nn.Linear, nn.Conv2d)


def normalised(net: nn.Module, inputs: Any = None) -> None:
    """Batch normalisation (Ioffe and Szegedy 2015) behind every linear and convolutional layer but the last.

    Networks that have normalisation, or whose layers are not called by themselves (recurrent, attention), are
    left as they are.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.RNNBase)
    if any(isinstance(module, kinds) for module in net.modules()):
        return
    layers = [(owner, name, layer) for owner in net.modules() for name, layer in _linear_children(owner)]
    for owner, name, layer in layers[:-1]:
        conv = isinstance(layer, nn.Conv2d)
        norm = nn.BatchNorm2d(layer.out_channels) if conv else nn.BatchNorm1d(layer.out_features)
        setattr(owner, name, nn.Sequential(layer, norm))


def _linear_children(owner: nn.Module) -> list[tuple[str, Any]]:
    return [(name, child) for name, child in owner.named_children() if isinstance(child, LINEAR)]


REMEDIES: dict[str, remedies.Remedy] = {**remedies.REMEDIES, "normalised": normalised}
