"""A small plain network without normalisation: the simplest thing that does not train when it is deep."""

from __future__ import annotations

from torch import nn


def plain_mlp(
    depth: int = 24,
    width: int = 64,
    inputs: int = 64,
    classes: int = 10,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Fully connected layers of one width with PyTorch's default initialisation.

    Args:
        depth: Number of linear layers, the last one included.
        width: Hidden units.
        inputs: Input features.
        classes: Outputs.
        activation: Class of the activation between them.

    Example:
        >>> net = plain_mlp(depth=3)
        >>> [name for name, module in net.named_children() if isinstance(module, nn.Linear)]
        ['fc1', 'fc2', 'fc3']
    """
    if depth < 1:
        raise ValueError(f"expected a depth of at least 1, got {depth}")
    net = nn.Sequential()
    for index in range(1, depth):
        net.add_module(f"fc{index}", nn.Linear(inputs if index == 1 else width, width))
        net.add_module(f"act{index}", activation())
    net.add_module(f"fc{depth}", nn.Linear(width if depth > 1 else inputs, classes))
    return net
