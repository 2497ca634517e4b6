"""Networks of torch alone with several inputs, streams or outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.zoo.architecture import Architecture
from benchmarks.architectures.zoo.batches import FIVE, integers, normal
from benchmarks.architectures.zoo.feedforward import conv_bn_relu


class BasicBlock(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class HRModule(nn.Module):
    """Parallel streams at falling resolution, each summed up from all at the end: list in, list out."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(BasicBlock(width), BasicBlock(width)) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(source, width, 1) if i != j else nn.Identity() for j, source in enumerate(widths)
            )
            for i, width in enumerate(widths)
        )

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """The streams, each with what the others know."""
        made = [branch(stream) for branch, stream in zip(self.branches, streams, strict=True)]
        return [
            F.relu(sum(F.interpolate(fuse(x), target.shape[-2:]) for fuse, x in zip(fuses, made, strict=True)))
            for fuses, target in zip(self.fuse_layers, made, strict=True)
        ]


class HRNet(nn.Module):
    """Stem, three stages of one, two and three streams, and a head on all streams."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8, 3, 2)
        self.stage1 = nn.Sequential(BasicBlock(8), BasicBlock(8))
        self.transition1 = conv_bn_relu(8, 12, 3, 2)
        self.stage2 = HRModule([8, 12])
        self.transition2 = conv_bn_relu(12, 16, 3, 2)
        self.stage3 = HRModule([8, 12, 16])
        self.last_layer = nn.Sequential(conv_bn_relu(36, 16, 1), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores for each pixel."""
        high = self.stage1(self.stem(x))
        streams = self.stage2([high, self.transition1(high)])
        streams = self.stage3([*streams, self.transition2(streams[-1])])
        joined = torch.cat([F.interpolate(stream, streams[0].shape[-2:]) for stream in streams], 1)
        return F.interpolate(self.last_layer(joined), x.shape[-2:])


class MessagePassing(nn.Module):
    """A residual step of message passing over an adjacency matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """New states of the nodes."""
        return nodes + F.relu(self.linear(adjacency @ self.norm(nodes)))


class GraphNet(nn.Module):
    """Nodes (N, nodes, features) and an adjacency matrix in, one set of scores for each graph out."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 16)
        self.steps = nn.ModuleList(MessagePassing(16) for _ in range(4))
        self.readout = nn.Linear(16, 5)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """Scores of a batch of graphs."""
        nodes = self.encode(nodes)
        for step in self.steps:
            nodes = step(nodes, adjacency)
        return self.readout(nodes.mean(1))


def adjacency() -> Tensor:
    """A ring of six nodes, rows normalised."""
    ring = torch.eye(6).roll(1, 0) + torch.eye(6).roll(-1, 0)
    return (ring / 2).expand(4, 6, 6)


class Siamese(nn.Module):
    """One encoder for both images of a pair, a head on the difference."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn_relu(3, 8, 3, 2), conv_bn_relu(8, 12, 3, 2))
        self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """One score for each pair."""
        difference = (self.encoder(left) - self.encoder(right)).abs().mean((2, 3))
        return self.head(difference).squeeze(1)


class Detector(nn.Module):
    """Two maps of scores from two depths: a list comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = conv_bn_relu(3, 8, 3, 2), conv_bn_relu(8, 12)
        self.stage3, self.stage4 = conv_bn_relu(12, 16), conv_bn_relu(16, 16, 3, 2)
        self.fine, self.coarse = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """A fine and a coarse map."""
        shared = self.stage3(self.stage2(self.stage1(x)))
        return [self.fine(shared), self.coarse(self.stage4(shared))]


def both_maps(output: list[Tensor], target: list[Tensor]) -> Tensor:
    """The sum of the maps' cross entropies."""
    return torch.stack([F.cross_entropy(*pair) for pair in zip(output, target, strict=True)]).sum()


STREAMS = [
    Architecture(
        "HRNet",
        HRNet,
        normal(2, 3, 32, 32),
        integers(4, 2, 32, 32),
        expected=(
            r"stem(\.2)?",
            r"stage1\.0(\.relu)?",
            r"stage2(\..*)?",
            r"stage3(\..*)?",
            r"last_layer\.0(\.2)?",
        ),
        forbidden=(r".*\.(conv1|bn1|conv2|bn2)", r"last_layer(\.1)?"),
        long_skips=True,
    ),
    Architecture(
        "Graph net",
        GraphNet,
        lambda: (normal(4, 6, 6)(), adjacency()),
        FIVE,
        expected=(r"encode", r"steps\.0", r"steps\.1", r"steps\.2", r"steps\.3"),
        forbidden=(r"steps\.\d\..*", r"readout"),
    ),
    Architecture(
        "Siamese",
        Siamese,
        lambda: (normal(4, 3, 16, 16)(), normal(4, 3, 16, 16)().flip(0)),
        lambda: torch.tensor([0.0, 1.0, 0.0, 1.0]),
        F.binary_cross_entropy_with_logits,
        expected=(r"head\.1", r"head\.3"),
        forbidden=(r"encoder.*",),
    ),
    Architecture(
        "Detector, list of maps",
        Detector,
        normal(2, 3, 32, 32),
        lambda: [integers(5, 2, 16, 16)(), integers(5, 2, 8, 8)()],
        both_maps,
        expected=(r"stage1(\.2)?", r"stage2(\.2)?", r"stage3(\.2)?"),
        forbidden=(r"fine", r"coarse", r"stage\d\.[01]"),
        long_skips=True,  # the fine map leaves before stage4
    ),
]
