"""Networks with the structures of the large collections of image models; the places follow from their blocks."""

from __future__ import annotations

from torch import nn

from benchmarks.architectures.zoo.architecture import Architecture
from benchmarks.architectures.zoo.batches import FIVE, normal
from benchmarks.architectures.zoo.feedforward import conv_bn_relu
from benchmarks.architectures.zoo.patterns import each
from benchmarks.architectures.zoo.timm_blocks import (
    DLA,
    OSA,
    TNT,
    ConvNeXtBlock,
    CrossViT,
    MBConv,
    NASNet,
    SumsOutside,
)


def pooled(*parts: nn.Module, width: int) -> nn.Module:
    """Parts in a row, pooling, a linear head."""
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def convnext() -> nn.Module:
    """Stem, two stages of three blocks, a downsampling between them."""
    down = nn.Sequential(nn.GroupNorm(1, 8), nn.Conv2d(8, 16, 2, 2))
    stages = (nn.Sequential(*(ConvNeXtBlock(width) for _ in range(3))) for width in (8, 16))
    first, second = stages
    return pooled(nn.Conv2d(3, 8, 4, 4), first, down, second, nn.GroupNorm(1, 16), width=16)


def mobilenet() -> nn.Module:
    """Inverted residuals, every other of them where the size changes."""
    blocks = [MBConv(8, 8), MBConv(8, 12, 2), MBConv(12, 12), MBConv(12, 16, 2), MBConv(16, 16)]
    return pooled(conv_bn_relu(3, 8, 3, 2), *blocks, width=16)


def vovnet() -> nn.Module:
    """Blocks of one-shot aggregation, with and without a shortcut."""
    return pooled(conv_bn_relu(3, 8, 3, 2), OSA(8, 12), OSA(12, 12), OSA(12, 16), OSA(16, 16), width=16)


IMAGE_COLLECTIONS = [
    Architecture(
        "CrossViT",
        CrossViT,
        normal(4, 3, 32, 32),
        FIVE,
        expected=each(r"blocks\.@", 0, 1, 2),
        forbidden=(r"blocks\.\d\..*",),
        long_skips=True,  # both streams together are the cut, a branch gets the first
    ),
    Architecture(
        "DLA, Res2Net blocks",
        DLA,
        normal(4, 3, 32, 32),
        FIVE,
        expected=(r"base_layer(\.2)?", r"level2(\.root(\.2)?)?", r"level3(\.tree2)?(\.root(\.2)?)?"),
        forbidden=(r".*\.(conv[13]|bn[13]|convs.*|bns.*|project.*)",),
        long_skips=True,
    ),
    Architecture(
        "ConvNeXt",
        convnext,
        normal(4, 3, 32, 32),
        FIVE,
        expected=("0", *each(r"1\.@", 0, 1, 2), *each(r"3\.@", 0, 1, 2)),
        forbidden=(r"[13]\.\d\..*",),
    ),
    Architecture(
        "NASNet",
        NASNet,
        normal(4, 3, 16, 16),
        FIVE,
        expected=(r"conv0(\.2)?", *each(r"cells\.@(\.join(\.2)?)?", 1, 2, 3, 4)),
        forbidden=(r"cells\.\d\.(conv|left|right).*",),
        long_skips=True,  # each cell is jumped over by the output of the one before
    ),
    Architecture(
        "MobileNet (inverted residuals)",
        mobilenet,
        normal(4, 3, 32, 32),
        FIVE,
        expected=(r"0(\.2)?", *each(r"@", 1, 3, 5), *each(r"@(\.bn3)?", 2, 4)),
        forbidden=(r"\d\.(conv_pw|bn1|conv_dw|bn2|conv_pwl)(\..*)?",),
    ),
    Architecture(
        "VoVNet (one-shot aggregation)",
        vovnet,
        normal(4, 3, 16, 16),
        FIVE,
        expected=(r"0(\.2)?", r"1(\.conv_concat(\.2)?)?", "2", r"3(\.conv_concat(\.2)?)?", "4"),
        forbidden=(r"\d\.conv_(mid|reduction).*",),
    ),
    Architecture(
        "TNT",
        TNT,
        normal(4, 5, 4, 3),
        FIVE,
        expected=each(r"blocks\.@", 0, 1),
        forbidden=(r"blocks\.\d\.(norm_in|mlp_in|proj|block\..+)", "pixel_embed"),
        long_skips=True,  # both streams together are the cut, a branch gets the patches
    ),
    Architecture(
        "Sums in the network's forward",
        SumsOutside,
        normal(4, 6, 6),
        FIVE,
        expected=("stem", *each(r"blocks\.@:input", 1, 2, 3)),
        forbidden=(r"blocks\.\d(\..*)?",),
    ),
]
