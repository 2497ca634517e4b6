"""The networks of the benchmark, small enough that a training takes a second on one core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def plain_conv(depth: int, width: int, activation: type[nn.Module]) -> nn.Sequential:
    """Convolutions in a row without normalisation, pooled after the first eighth and after half of them."""
    net = nn.Sequential()
    for index in range(depth):
        net.add_module(f"conv{index + 1}", nn.Conv2d(width if index else 1, width, 3, padding=1))
        net.add_module(f"act{index + 1}", activation())
        if index in (depth // 8, depth // 2):
            net.add_module(f"pool{index + 1}", nn.MaxPool2d(2))
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(width, 10))
    return net


class Residual(nn.Module):
    """Two convolutions with normalisation and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same."""
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + x)


def resnet(blocks: int, width: int) -> nn.Sequential:
    """A residual network, in which there is nothing for a branch to rescue."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.MaxPool2d(2), *(Residual(width) for _ in range(blocks)), *head
    )


class Recurrent(nn.Module):
    """Stacked LSTMs that read the image pixel by pixel, or a few pixels at a time."""

    def __init__(self, depth: int, width: int, pixels: int) -> None:
        super().__init__()
        sizes = [pixels] + [width] * (depth - 1)
        self.layers = nn.ModuleList(nn.LSTM(size, width, batch_first=True) for size in sizes)
        self.fc = nn.Linear(width, 10)
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 64)`` to ``(N, 10)``, by the last step."""
        x = x.reshape(len(x), -1, self.pixels)
        for layer in self.layers:
            x, _ = layer(x)
        out: Tensor = self.fc(x[:, -1])
        return out


class Transformer(nn.Module):
    """Encoder blocks over the rows of the image: post-norm as in 2017, or pre-norm as in a ViT."""

    def __init__(self, depth: int, width: int, *, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(8, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True, norm_first=norm_first)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 64)`` to ``(N, 10)``, by the mean of the tokens."""
        x = self.embed(x.reshape(len(x), 8, 8)) + self.position
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.fc(self.norm(x).mean(1))
        return out


class UNet(nn.Module):
    """Two levels down and up again with long skips; each pixel of the output names the digit it belongs to."""

    def __init__(self, width: int, depth: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.down1, self.down2 = _stage(1, width, depth, activation), _stage(width, width, depth, activation)
        self.bottom = _stage(width, width, depth, activation)
        self.up2, self.up1 = (_stage(2 * width, width, depth, activation) for _ in range(2))
        self.head = nn.Conv2d(width, 11, 1)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 1, H, W)`` to ``(N, 11, H, W)``."""
        first = self.down1(x)
        second = self.down2(self.pool(first))
        y = self.up2(torch.cat([self.grow(self.bottom(self.pool(second))), second], 1))
        out: Tensor = self.head(self.up1(torch.cat([self.grow(y), first], 1)))
        return out


def _stage(inputs: int, width: int, depth: int, activation: type[nn.Module]) -> nn.Sequential:
    convs = [nn.Conv2d(inputs if index == 0 else width, width, 3, padding=1) for index in range(depth)]
    return nn.Sequential(*(layer for conv in convs for layer in (conv, activation())))
