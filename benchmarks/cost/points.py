"""How long it takes to find the points of a deep network, beyond its forward pass.

python benchmarks/cost/points.py [--layers 1000] [--out benchmarks/results/points.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import gradprobe as gp
from benchmarks.cost.timing import fastest
from benchmarks.report import Report
from gradprobe.zoo import plain_mlp

WIDTH = 16


class Residual(nn.Module):
    """Pre-norm blocks of four layers."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Block() for _ in range(layers // 4)])
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.down(torch.relu(self.up(self.norm(x)))))


class UNet(nn.Module):
    """A long skip at each level: half of the layers go down, half up."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(layers // 2)])
        self.up = nn.ModuleList([nn.Linear(2 * WIDTH, WIDTH) for _ in range(layers // 2)])
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.down:
            x = torch.relu(layer(x))
            skips.append(x)
        for layer in self.up:
            x = torch.relu(layer(torch.cat([x, skips.pop()], -1)))
        return self.fc(x)


class Pairs(nn.Module):
    """Layers that hand on two tensors, as graph networks do: neither of them alone is a cut."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)
        self.steps = nn.ModuleList([Pair() for _ in range(layers // 2)])

    def forward(self, x: Tensor) -> Tensor:
        pair = x, self.first(x)
        for step in self.steps:
            pair = step(*pair)
        return self.fc(pair[0] + pair[1])


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nodes, self.edges = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        return nodes + torch.tanh(self.nodes(nodes + edges)), edges + torch.tanh(self.edges(nodes))


# by number of layers: the network and the width of its input
NETS: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    "plain": lambda layers: (plain_mlp(depth=layers, width=WIDTH), 64),
    "residual": lambda layers: (Residual(layers), WIDTH),
    "u-net": lambda layers: (UNet(layers), WIDTH),
    "pairs": lambda layers: (Pairs(layers), WIDTH),
}


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = Report(
        "How long it takes to find the points", f"Seconds, the fastest of five; batch 4, width {WIDTH}."
    )
    report.columns("network", "layers", "points", "forward", "points beyond it")
    for name, build in NETS.items():
        torch.manual_seed(0)
        net, width = build(options.layers)
        x = torch.randn(4, width)
        points = gp.points(net, x)
        layers = sum(len(point.layers) for point in points) + len(points.unserved)
        forward = fastest(partial(net, x))
        beyond = fastest(partial(gp.points, net, x)) - forward
        report.row(name, layers, len(points), f"{forward:.3f}", f"{beyond:.2f}")
    report.write(options.out)


if __name__ == "__main__":
    main()
