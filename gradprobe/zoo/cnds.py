"""The networks of CNDS: Wang, Lee, Tu, Lazebnik, "Training Deeper Convolutional Networks with Deep Supervision".

arXiv 1505.02496 (2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# channels of each 3x3 convolution after conv1, one stage a row; a pool follows each stage
_STAGES_8 = ((128,), (256, 256), (512, 512), (512, 512))
_STAGES_13 = ((128,), (256, 256), (512, 512, 512), (512, 512, 512), (512, 512, 512))


def cnds8(width: float = 1.0, image_size: int = 227, classes: int = 1000, channels: int = 3) -> nn.Sequential:
    """CNDS-8: eight convolutions, three fully connected layers, no normalisation, the authors' initialisation.

    conv 7x7/2 64; 3x3 128; 3x3 256 twice; 3x3 512 twice; 3x3 512 twice; a 3x3/2 pool after each group; FC 4096,
    4096, classes with ReLU and dropout 0.5. Weights N(0, 0.01); biases 0.5 in conv1, 0.1 in the other
    convolutions, 1 in fc6 and fc7, 0 in the last.

    Args:
        width: Factor on every number of channels and hidden units.
        image_size: Height and width of the input; at least 69.
        classes: Number of classes.
        channels: Channels of the input.

    Example:
        >>> net = cnds8(width=0.125, image_size=69, classes=10, channels=1)
        >>> net(torch.zeros(2, 1, 69, 69)).shape
        torch.Size([2, 10])
        >>> [name for name, module in net.named_children() if isinstance(module, nn.Conv2d)]
        ['conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'conv6', 'conv7', 'conv8']
    """
    return _cnds(_STAGES_8, width, image_size, classes, channels)


def cnds13(width: float = 1.0, image_size: int = 227, classes: int = 1000, channels: int = 3) -> nn.Sequential:
    """CNDS-13: as `cnds8` with thirteen convolutions.

    The groups end with conv 1, 2, 4, 7, 10 and 13. That three of them are where the paper has its branches (4, 7
    and 10) is our reason for grouping them so: the layer list itself is our reading.

    Args:
        width: Factor on every number of channels and hidden units.
        image_size: Height and width of the input; at least 133.
        classes: Number of classes.
        channels: Channels of the input.

    Example:
        >>> net = cnds13(width=0.125, image_size=133, classes=10, channels=1)
        >>> sum(isinstance(module, nn.Conv2d) for module in net.modules())
        13
    """
    return _cnds(_STAGES_13, width, image_size, classes, channels)


def _cnds(
    stages: Sequence[Sequence[int]], width: float, image_size: int, classes: int, channels: int
) -> nn.Sequential:
    def scaled(size: int) -> int:
        return max(1, round(size * width))

    net = nn.Sequential()
    count, before = 1, scaled(64)
    net.add_module("conv1", nn.Conv2d(channels, before, 7, stride=2))
    net.add_module("relu1", nn.ReLU())
    net.add_module("pool1", nn.MaxPool2d(3, 2, ceil_mode=True))
    for stage in stages:
        for size in stage:
            count += 1
            net.add_module(f"conv{count}", nn.Conv2d(before, scaled(size), 3, padding=1))
            net.add_module(f"relu{count}", nn.ReLU())
            before = scaled(size)
        # at 227 ceil and floor agree at every pool but the last, where the authors round up
        net.add_module(f"pool{count}", nn.MaxPool2d(3, 2, ceil_mode=True))
    net.add_module("flatten", nn.Flatten())
    features, hidden = _features(net, image_size), scaled(4096)
    for index, inputs in enumerate((features, hidden), start=6):
        net.add_module(f"fc{index}", nn.Linear(inputs, hidden))
        net.add_module(f"fc{index}_relu", nn.ReLU())
        net.add_module(f"fc{index}_dropout", nn.Dropout(0.5))
    net.add_module("fc8", nn.Linear(hidden, classes))
    _initialise(net)
    return net


def _features(net: nn.Sequential, image_size: int) -> int:
    size = (image_size - 7) // 2 + 1
    for name, _ in net.named_children():
        if name.startswith("pool"):
            if size < 2:
                raise ValueError(f"image_size={image_size} is too small: nothing is left before {name}")
            size = -(-(size - 3) // 2) + 1
    last = [module for module in net if isinstance(module, nn.Conv2d)][-1]
    return last.out_channels * size**2


def _initialise(net: nn.Sequential) -> None:
    with torch.no_grad():
        for name, module in net.named_children():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                module.weight.normal_(0, 0.01)
                biases = {"conv1": 0.5, "fc6": 1.0, "fc7": 1.0, "fc8": 0.0}
                module.bias.fill_(biases.get(name, 0.1))
