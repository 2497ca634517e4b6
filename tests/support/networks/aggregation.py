"""Deep layer aggregation with Res2Net blocks, by hand as timm builds it."""

from __future__ import annotations

import torch
from torch import nn

from support.networks.registry import conv


class Res2Net(nn.Module):
    """The block of Gao et al. 2019 as timm's DLA takes it: it may get its shortcut from outside."""

    def __init__(self, inside, width, stride=1, scale=4, part=2):
        super().__init__()
        self.conv1, self.bn1 = conv(inside, part * scale, 1), nn.BatchNorm2d(part * scale)
        self.convs = nn.ModuleList(conv(part, part, 3, stride) for _ in range(scale - 1))
        self.bns = nn.ModuleList(nn.BatchNorm2d(part) for _ in range(scale - 1))
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.conv3, self.bn3, self.relu = (
            conv(part * scale, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x, shortcut=None, children=()):
        parts = self.relu(self.bn1(self.conv1(x))).chunk(4, 1)
        made = []
        for layer, norm, part in zip(self.convs, self.bns, parts, strict=False):
            alone = not made or isinstance(self.pool, nn.AvgPool2d)
            made.append(self.relu(norm(layer(part if alone else made[-1] + part))))
        out = self.bn3(self.conv3(torch.cat([*made, self.pool(parts[-1])], 1)))
        out += x if shortcut is None else shortcut
        return self.relu(out)


class Root(nn.Module):
    """Joins what comes before it."""

    def __init__(self, inside, width, shortcut):
        super().__init__()
        self.shortcut = shortcut
        self.conv, self.bn, self.relu = conv(inside, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)

    def forward(self, children):
        made = self.bn(self.conv(torch.cat(children, 1)))
        return self.relu(made + children[0] if self.shortcut else made)


class Tree(nn.Module):
    """Deep layer aggregation (Yu et al. 2018), as timm's DlaTree: the root concatenates what was before it."""

    def __init__(self, levels, inside, width, stride=1, level_root=False, root=0, shortcut=False):
        super().__init__()
        root = (root or 2 * width) + inside * level_root
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.project = nn.Identity()
        if levels > 1:
            self.tree1 = Tree(levels - 1, inside, width, stride, shortcut=shortcut)
            self.tree2 = Tree(levels - 1, width, width, root=root + width, shortcut=shortcut)
        else:
            self.tree1, self.tree2 = Res2Net(inside, width, stride), Res2Net(width, width)
            if inside != width:
                self.project = nn.Sequential(conv(inside, width, 1), nn.BatchNorm2d(width))
            self.root = Root(root, width, shortcut)
        self.levels, self.level_root = levels, level_root

    def forward(self, x, shortcut=None, children=()):
        bottom = self.downsample(x)
        children = [*children, bottom] if self.level_root else list(children)
        first = self.tree1(x, self.project(bottom))
        if self.levels > 1:
            return self.tree2(first, None, [*children, first])
        return self.root([self.tree2(first), first, *children])


def aggregation(levels, shortcut=False):
    """A DLA: its stem, the trees of the given levels, each at half the resolution of the one before, its head.

    With a shortcut the root of each tree adds what its second block returns, as in timm's dla102.
    """
    torch.manual_seed(0)
    widths = range(4, 5 + len(levels))
    trees = [
        Tree(depth, width, width + 1, 2, level_root=number > 0, shortcut=shortcut)
        for number, (depth, width) in enumerate(zip(levels, widths, strict=False))
    ]
    stem = nn.Sequential(conv(3, 4, 7), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(stem, *trees, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5))
