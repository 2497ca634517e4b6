"""The blocks of networks of the large collections of image models, written by hand: small, but of their structure.

Sources: the papers, and how timm and torchvision put the blocks together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.architectures.zoo.feedforward import conv_bn_relu


class TokenBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.fc1, self.fc2 = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The tokens."""
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class CrossStage(nn.Module):
    """CrossViT (Chen et al. 2021): a stream of few blocks beside one of many, and what each gives to the other."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.small = nn.Sequential(*(TokenBlock(8) for _ in range(small)))
        self.large = nn.Sequential(*(TokenBlock(16) for _ in range(large)))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Both streams."""
        small, large = self.small(streams[0]), self.large(streams[1])
        return [small + self.down(large[:, :1]), large + self.up(small[:, :1])]


class CrossViT(nn.Module):
    """Two sizes of patches, three stages, a head on each stream."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_small, self.patch_large = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 16, 8, 8)
        self.blocks = nn.ModuleList(CrossStage(1, 4) for _ in range(3))
        self.head = nn.ModuleList([nn.Linear(8, 5), nn.Linear(16, 5)])

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of images."""
        streams = [patch(x).flatten(2).transpose(1, 2) for patch in (self.patch_small, self.patch_large)]
        for block in self.blocks:
            streams = block(streams)
        scores = [head(stream.mean(1)) for head, stream in zip(self.head, streams, strict=True)]
        return torch.stack(scores).mean(0)


class Bottle2neck(nn.Module):
    """Res2Net (Gao et al. 2019) as DLA takes it: the shortcut comes from outside."""

    def __init__(self, inside: int, width: int, stride: int = 1, scale: int = 4) -> None:
        super().__init__()
        part = width // scale
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.convs = nn.ModuleList(
            nn.Conv2d(part, part, 3, stride, padding=1, bias=False) for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(part) for _ in range(scale - 1))
        self.conv3, self.bn3 = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.scale, self.stride = scale, stride

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """The feature map."""
        parts = F.relu(self.bn1(self.conv1(x))).chunk(self.scale, 1)
        made: list[Tensor] = []
        for conv, bn, part in zip(self.convs, self.bns, parts, strict=False):
            carried = part if not made or self.stride > 1 else part + made[-1]
            made.append(F.relu(bn(conv(carried))))
        made.append(F.avg_pool2d(parts[-1], 3, self.stride, padding=1) if self.stride > 1 else parts[-1])
        return F.relu(self.bn3(self.conv3(torch.cat(made, 1))) + shortcut)


class DLATree(nn.Module):
    """Deep layer aggregation (Yu et al. 2018): two subtrees, and a root that joins them and what was before."""

    def __init__(self, levels: int, inside: int, width: int, stride: int = 1, children: int = 0) -> None:
        super().__init__()
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width))
        self.levels = levels
        if levels == 1:
            self.tree1, self.tree2 = Bottle2neck(inside, width, stride), Bottle2neck(width, width)
            self.root = conv_bn_relu(2 * width + children, width, 1)
        else:
            self.tree1 = DLATree(levels - 1, inside, width, stride)
            self.tree2 = DLATree(levels - 1, width, width, children=width + children)

    def forward(self, x: Tensor, before: Sequence[Tensor] = ()) -> Tensor:
        """The feature map."""
        if self.levels > 1:
            first = self.tree1(x)
            return self.tree2(first, [*before, first])
        first = self.tree1(x, self.project(self.downsample(x)))
        return self.root(torch.cat([self.tree2(first, first), first, *before], 1))


class DLA(nn.Module):
    """Stem, three trees, head."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = conv_bn_relu(3, 8)
        self.level2, self.level3 = DLATree(1, 8, 8, 2), DLATree(2, 8, 16, 2)
        self.level4 = DLATree(2, 16, 16, 2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of images."""
        return self.fc(self.level4(self.level3(self.level2(self.base_layer(x)))).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022; the block owns its layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        made = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.fc2(F.gelu(self.fc1(made)))).permute(0, 3, 1, 2)


class NASCell(nn.Module):
    """NASNet (Zoph et al. 2018): takes the outputs of the two cells before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_prev_1x1, self.conv_1x1 = conv_bn_relu(width, width, 1), conv_bn_relu(width, width, 1)
        self.left, self.right = nn.ModuleList(), nn.ModuleList()
        for _ in range(3):
            self.left.append(conv_bn_relu(width, width))
            self.right.append(conv_bn_relu(width, width))
        self.join = conv_bn_relu(3 * width, width, 1)

    def forward(self, now: Tensor, before: Tensor) -> Tensor:
        """The feature map."""
        old, new = self.conv_prev_1x1(before), self.conv_1x1(now)
        made = [left(old) + right(new) for left, right in zip(self.left, self.right, strict=True)]
        return self.join(torch.cat(made, 1))


class NASNet(nn.Module):
    """Stem, six cells, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = conv_bn_relu(3, 8, 3, 2)
        self.cells, self.last_linear = nn.ModuleList(NASCell(8) for _ in range(6)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of images."""
        before = now = self.conv0(x)
        for cell in self.cells:
            before, now = now, cell(now, before)
        return self.last_linear(now.mean((2, 3)))


class BatchNormAct(nn.BatchNorm2d):
    """Batch normalisation with its activation inside, as in timm."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised and activated."""
        return self.act(self.drop(super().forward(x)))


class MBConv(nn.Module):
    """The inverted residual of MobileNetV2 (Sandler et al. 2018); without a shortcut where the size changes."""

    def __init__(self, inside: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_pw, self.bn1 = nn.Conv2d(inside, 2 * inside, 1, bias=False), BatchNormAct(2 * inside)
        self.conv_dw = nn.Conv2d(2 * inside, 2 * inside, 3, stride, 1, groups=2 * inside, bias=False)
        self.bn2, self.conv_pwl = BatchNormAct(2 * inside), nn.Conv2d(2 * inside, width, 1, bias=False)
        self.bn3, self.shortcut = nn.BatchNorm2d(width), stride == 1 and inside == width

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        made = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))))
        return x + made if self.shortcut else made


class OSA(nn.Module):
    """One-shot aggregation of VoVNet (Lee et al. 2019); a block in a stage has a shortcut, a transition none."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.conv_reduction = conv_bn_relu(inside, width, 1) if inside != width else nn.Identity()
        self.conv_mid = nn.ModuleList(conv_bn_relu(width, width) for _ in range(3))
        self.conv_concat, self.residual = conv_bn_relu(4 * width, width, 1), inside == width

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        features = [self.conv_reduction(x)]
        for conv in self.conv_mid:
            features.append(conv(features[-1]))
        made = self.conv_concat(torch.cat(features, 1))
        return made + x if self.residual else made


class PixelsAndPatches(nn.Module):
    """A block of TNT (Han et al. 2021): the batch of the pixels is that of all patches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_in, self.mlp_in = nn.LayerNorm(6), nn.Linear(6, 6)
        self.proj, self.block = nn.Linear(24, 16), TokenBlock(16)

    def forward(self, pixels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams."""
        pixels = pixels + self.mlp_in(self.norm_in(pixels))
        return pixels, self.block(patches + self.proj(pixels.reshape(*patches.shape[:2], -1)))


class TNT(nn.Module):
    """Images as patches of four pixels each."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel_embed, self.patch_embed = nn.Linear(3, 6), nn.Linear(24, 16)
        self.blocks = nn.ModuleList(PixelsAndPatches() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of patches (N, patches, 4, 3)."""
        pixels = self.pixel_embed(x.flatten(0, 1))
        patches = self.patch_embed(pixels.reshape(*x.shape[:2], -1))
        for block in self.blocks:
            pixels, patches = block(pixels, patches)
        return self.head(self.norm(patches).mean(1))


class SumsOutside(nn.Module):
    """Blocks that return only their branch: the network adds it, so no module returns the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of a batch of sequences."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))
