"""A small training that takes milliseconds: its batches, and a network too deep to learn from them."""

from torch import nn

from gradprobe.zoo import digits, plain_mlp

LOSS = nn.functional.cross_entropy


def small():
    """Four batches of 128 digits, and the held-out ones."""
    data = digits((64,), batch_size=128)
    return data.batches[:4], data.held_out


def deep():
    """Thirty layers: the gradient of the first is below 1e-7."""
    return plain_mlp(depth=30, width=16)
