"""What else can be done about a network that does not learn: other initial weights, or normalisation.

Where that does as well as deep supervision it is the better advice: there is nothing to remove afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import Batches, forward, to_device
from gradprobe.network.hooks import Attached, Hook
from gradprobe.network.layers import NORMALISATIONS

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_LEFT_AS_IT_IS = (*NORMALISATIONS, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
PlainLayer = nn.Linear | nn.modules.conv._ConvNd
Remedy = Callable[[nn.Module, Any], None]


def kaiming(model: nn.Module, inputs: Any = None) -> None:
    """Draw the weights of all linear and convolutional layers after He et al. 2015 (arXiv 1502.01852); biases 0.

    Normal, for the inputs of each layer and a ReLU after it. The ``Conv1D`` of transformers is a linear layer.
    Other layers, frozen and parametrized weights are left as they are.

    Args:
        model: Changed in place.
        inputs: Not used.

    Example:
        >>> layer = nn.Linear(50_000, 4)
        >>> kaiming(layer)
        >>> round(layer.weight.std().item() * 25_000**0.5, 1)  # sqrt(2 / inputs)
        1.0
    """
    for layer in _plain_layers(model):
        nn.init.kaiming_normal_(_outputs_first(layer))
        _zero_bias(layer)


def lsuv(model: nn.Module, inputs: Any) -> None:
    """Layer-sequential unit variance (Mishkin and Matas 2016, arXiv 1511.06422), from one batch.

    Orthonormal weights, biases 0; then, in the order of a forward pass, each layer's weights are divided by the
    standard deviation of its output, the first time that it is called. Other layers, frozen and parametrized
    weights are left as they are.

    Args:
        model: Changed in place; it runs as it is, in train or eval mode.
        inputs: Of one batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        >>> x = torch.randn(64, 8)
        >>> lsuv(net, x)
        >>> round(net(x).std().item(), 3)
        1.0
    """
    scaled: set[nn.Module] = set()

    def scale(layer: nn.Module, args: Any, output: Any) -> Any:
        deviation = output.float().std()
        if layer in scaled or not 0 < deviation < float("inf"):
            return output
        scaled.add(layer)
        layer.weight.div_(deviation)  # type: ignore[operator]
        return output / deviation.to(output.dtype)

    hooks = Attached()
    with torch.no_grad():
        try:
            for layer in _plain_layers(model):
                weight = _outputs_first(layer)
                # in float32: torch has no QR decomposition of float16 and bfloat16
                weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, device=weight.device)))
                _zero_bias(layer)
                hooks.add(layer.register_forward_hook(Hook(scale)))
            forward(model, inputs)
        finally:
            hooks.remove()


class ChannelsLast(nn.Module):
    """Batch normalisation of ``(N, ..., C)``, as a linear layer returns it.

    Args:
        features: C.

    Example:
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
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    for owner, name, layer in [(o, name, child) for o in model.modules() for name, child in o.named_children()]:
        if isinstance(layer, _LAYERS) and layer is not layers[-1]:
            norm = _norm_for(layer).to(layer.weight.device, layer.weight.dtype)
            owner.register_module(name, nn.Sequential(layer, norm).train(layer.training))


REMEDIES: dict[str, Remedy] = {"kaiming": kaiming, "lsuv": lsuv, "normalised": normalised}


def apply(remedy: Remedy, model: nn.Module, batches: Batches) -> None:
    """Change a model in place by a remedy, which gets the inputs of the first batch; the batches are put back."""
    device = next(model.parameters()).device
    with batches.rewound():
        inputs, _ = to_device(next(batches.stream()), device)
    remedy(model, inputs)


def _norm_for(layer: PlainLayer) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return ChannelsLast(layer.out_features)
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return kinds[len(layer.kernel_size)](layer.out_channels)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2 in transformers, whose weight is ``(inputs, outputs)``."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")


def _outputs_first(layer: PlainLayer) -> Tensor:
    """Its weight as ``(outputs, inputs, ...)``, as ``nn.Linear`` has it; the same memory."""
    weight = layer.weight.detach()
    return weight.t() if _is_conv1d(layer) else weight


def _plain_layers(model: nn.Module) -> Iterator[PlainLayer]:
    for layer in model.modules():
        linear = isinstance(layer, _LAYERS) or _is_conv1d(layer)
        weight = layer._parameters.get("weight") if linear else None
        if isinstance(weight, Tensor) and weight.requires_grad:
            yield layer  # type: ignore[misc]


def _zero_bias(layer: PlainLayer) -> None:
    if layer.bias is not None and layer.bias.requires_grad:
        nn.init.zeros_(layer.bias)
