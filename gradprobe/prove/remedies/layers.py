"""The linear and convolutional layers of a network, and their weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

LINEAR_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
PlainLayer = nn.Linear | nn.modules.conv._ConvNd


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2 in transformers, whose weight is ``(inputs, outputs)``."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")


def outputs_first(layer: PlainLayer) -> Tensor:
    """Its weight as ``(outputs, inputs, ...)``, as ``nn.Linear`` has it; the same memory."""
    weight = layer.weight.detach()
    return weight.t() if is_conv1d(layer) else weight


def plain_layers(model: nn.Module) -> Iterator[PlainLayer]:
    """The linear and convolutional layers whose weight can be drawn anew: not frozen, not parametrized."""
    for layer in model.modules():
        linear = isinstance(layer, LINEAR_LAYERS) or is_conv1d(layer)
        weight = layer._parameters.get("weight") if linear else None
        if isinstance(weight, Tensor) and weight.requires_grad:
            yield layer  # type: ignore[misc]


def zero_bias(layer: PlainLayer) -> None:
    """Set the bias to 0, if there is one that is trained."""
    if layer.bias is not None and layer.bias.requires_grad:
        nn.init.zeros_(layer.bias)
