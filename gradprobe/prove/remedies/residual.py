"""Scaled residual branches: found by trying what a block returns, and scaled as GPT-2's are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import forward
from gradprobe.network.hooks import Attached, Hook
from gradprobe.prove.remedies.layers import PlainLayer, plain_layers


def residual_scaled(model: nn.Module, inputs: Any) -> None:
    """Divide what ends each residual branch by the square root of how many there are.

    As GPT-2 begins (Radford et al. 2019, section 2.3); Zhang et al. 2019 (Fixup, arXiv 1901.09321) show why: the
    variance of a residual stream without normalisation grows with every branch. A branch is found by trying: a
    module that returns its input when all its linear and convolutional layers return 0, and its input plus what
    one of these returns when that alone returns something. Branches that end in normalisation need no scaling;
    they and all else are left as they are.

    Args:
        model: Changed in place; it runs as it is, in train or eval mode.
        inputs: Of one batch.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        ...     def forward(self, x):
        ...         return x + self.down(self.up(x).relu())
        >>> net = nn.Sequential(Block(), Block(), Block(), Block(), nn.Linear(4, 2))
        >>> before = net[3].down.weight.clone(), net[3].up.weight.clone()
        >>> residual_scaled(net, torch.randn(8, 4))
        >>> torch.equal(net[3].down.weight, before[0] / 2), torch.equal(net[3].up.weight, before[1])
        (True, True)
    """
    ends = [layer for layer in _branch_ends(model, inputs) if layer.weight.requires_grad]
    with torch.no_grad():
        for layer in ends:
            layer.weight.div_(math.sqrt(len(ends)))
            if layer.bias is not None and layer.bias.requires_grad:
                layer.bias.div_(math.sqrt(len(ends)))


def _branch_ends(model: nn.Module, inputs: Any) -> list[PlainLayer]:
    """The layers that end residual branches, in the order of the forward pass."""
    plain = set(plain_layers(model))
    inside = {module: [one for one in module.modules() if one in plain] for module in model.modules()}
    called: dict[nn.Module, tuple[Any, Any]] = {}
    hooks = Attached()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            called.setdefault(module, (args[0].detach(), output.shape))

    with torch.no_grad():
        try:
            for module, layers in inside.items():
                if layers and module not in plain:
                    hooks.add(module.register_forward_hook(Hook(note)))
            forward(model, inputs)
        finally:
            hooks.remove()
        ends: dict[PlainLayer, None] = {}
        for module, (x, shape) in called.items():
            if x.shape == shape and x.is_floating_point():
                ends.update(dict.fromkeys(_ends_of(module, inside[module], x)))
    return list(ends)


def _ends_of(block: nn.Module, layers: list[PlainLayer], x: Tensor) -> Iterator[PlainLayer]:
    if not torch.allclose(_with_outputs(block, layers, x, {}), x):
        return
    for layer in layers:
        if torch.allclose(_with_outputs(block, layers, x, {layer: 1.0}), x + 1):
            yield layer


def _with_outputs(block: nn.Module, layers: list[PlainLayer], x: Tensor, values: Mapping[Any, float]) -> Tensor:
    """What a block returns where each of its layers returns one number: 0, or what is given."""
    hooks = Attached()

    def constant(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.full_like(output, values.get(layer, 0.0))

    was_training = {module: module.training for module in block.modules()}
    try:
        block.eval()  # dropout would drop what is given, and running statistics would move
        for layer in layers:
            hooks.add(layer.register_forward_hook(Hook(constant)))
        returned: Tensor = block(x.clone())  # an in-place activation would change it
    finally:
        hooks.remove()
        for module, flag in was_training.items():
            module.training = flag
    return returned
