"""Networks whose authors supervise them at places in between."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from support.networks.convolutional import Inception
from support.networks.registry import NO_PATH, OUTPUT, conv, images, network
from support.networks.transformers import Mlp

INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class GoogLeNet(nn.Module):
    """Szegedy et al. 2015, narrow: two convolutional stages, inception 3a-5b, heads on 4a and 4d."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 4, 3, 2), conv(4, 4, 1), conv(4, 8)
        for name in INCEPTIONS:
            self.add_module(f"inception{name}", Inception(8))
        self.aux1, self.aux2 = self.head(), self.head()
        self.fc = nn.Linear(8, 5)

    @staticmethod
    def head():
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(8, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)
        x = F.relu(self.conv3(F.relu(self.conv2(x))))
        x = F.max_pool2d(self.inception3b(self.inception3a(x)), 3, 2, 1)
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training else None
        x = self.inception5b(self.inception5a(F.max_pool2d(self.inception4e(x), 2)))
        x = self.fc(x.mean((2, 3)))
        return (x, aux2, aux1) if self.training else x


@network(
    {f"conv{k}": f"conv{k}" for k in (1, 2, 3)}
    | {f"inception{name}": f"inception{name}.*" for name in INCEPTIONS},
    {"aux*": NO_PATH, "fc": OUTPUT},
    main=lambda output: output[0],
)
def googlenet():
    """Heads on 4a and 4d (Szegedy et al. 2015, section 5): both are points, and the heads are none."""
    return GoogLeNet(), images(size=32)


class DETRDecoderLayer(nn.Module):
    """Carion et al. 2020: queries are parameters that are added to what attends; the target begins as zeros."""

    def __init__(self, size):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(size, 1)
        self.cross_attn = nn.MultiheadAttention(size, 1)
        self.linear1, self.linear2 = nn.Linear(size, 8), nn.Linear(8, size)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(size), nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, target, memory, queries, positions):
        q = target + queries
        target = self.norm1(target + self.self_attn(q, q, target)[0])
        target = self.norm2(target + self.cross_attn(target + queries, memory + positions, memory)[0])
        return self.norm3(target + self.linear2(F.relu(self.linear1(target))))


class DETREncoderLayer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(size, 1)
        self.linear1, self.linear2 = nn.Linear(size, 8), nn.Linear(8, size)
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, x, positions):
        q = x + positions
        x = self.norm1(x + self.self_attn(q, q, x)[0])
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class DETR(nn.Module):
    def __init__(self, layers, size=4):
        super().__init__()
        self.backbone, self.relu = nn.Conv2d(3, size, 4, 4), nn.ReLU()
        self.project = conv(size, size, 1)
        self.encoder = nn.ModuleList(DETREncoderLayer(size) for _ in range(layers))
        self.decoder = nn.ModuleList(DETRDecoderLayer(size) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.queries, self.positions = nn.Embedding(5, size), nn.Parameter(torch.randn(4, 1, size))
        self.classes, self.boxes = nn.Linear(size, 3), Mlp(size)

    def forward(self, x):
        memory = self.project(self.relu(self.backbone(x))).flatten(2).permute(2, 0, 1)
        for layer in self.encoder:
            memory = layer(memory, self.positions)
        queries = self.queries.weight[:, None].expand(-1, memory.shape[1], -1)
        target = torch.zeros_like(queries)
        for layer in self.decoder:
            target = layer(target, memory, queries, self.positions)
        found = self.norm(target)
        return {"classes": self.classes(found), "boxes": self.boxes(found).sigmoid()}
