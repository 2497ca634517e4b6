"""Branches that make one vector of a point: classification, regression, and whatever nothing else suits."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.insert.branches.base import ShapedBranch, averaged, contiguous_if_compiling, pooled_to, resized
from gradprobe.network.layout import Layout, Shape

MAX_FIRST_FC = 2**24  # weights; with more the first FC of the CNDS branch would outweigh most networks


class CNDSBranch(ShapedBranch):
    """The auxiliary supervision branch of CNDS (Wang et al. 2015, arXiv 1505.02496, authors' released file).

    Average pool 5x5/2, 1x1 convolution to 64, FC 1024 + ReLU + dropout .5, twice, FC classes. On a map
    smaller than 5x5 the pool takes the whole map. A map of another size than recorded is pooled to that size.

    Args:
        point_shape: ``(N, C, H, W)``.
        output_shape: ``(N, classes)`` or ``(N,)``.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Raises:
        ValueError: If the point is no image, or the output more than one vector.

    Example:
        >>> import torch
        >>> branch = CNDSBranch((2, 8, 13, 13), (2, 10))
        >>> branch(torch.zeros(2, 8, 13, 13)).shape
        torch.Size([2, 10])
    """

    kind = "cnds"

    def __init__(self, point_shape: Shape, output_shape: Shape, **axes: Any) -> None:
        super().__init__(point_shape, output_shape, **axes)
        size = self.point.size
        self._expect(len(size) == 2 and not self.output.size, "it takes a map to a vector")
        self.pool = nn.AvgPool2d((min(5, size[0]), min(5, size[1])), stride=2)
        self.conv = nn.Conv2d(self.point.features, 64, 1)
        self.fc1 = nn.Linear(_cnds_features(self.point), 1024)
        self.fc2 = nn.Linear(1024, 1024)
        self.fc3 = nn.Linear(1024, self.output.features)
        self.dropout = nn.Dropout(0.5)

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, classes)``."""
        hidden = self.conv(self.pool(contiguous_if_compiling(pooled_to(x, self.point.size)))).flatten(1)
        hidden = self.dropout(F.relu(self.fc1(hidden)))
        hidden = self.dropout(F.relu(self.fc2(hidden)))
        out: Tensor = self.fc3(hidden)
        return out


class PooledBranch(ShapedBranch):
    """Average over the positions, then one linear layer; its numbers are reshaped if the output is no vector.

    Args:
        point_shape: ``(N, C)`` or ``(N, C, ...)``.
        output_shape: ``(N, K)``, ``(N,)``, or any other of which no linear layer needs more than 2^24 weights.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Raises:
        ValueError: If the output has too many numbers.

    Example:
        >>> import torch
        >>> PooledBranch((2, 8, 5, 5), (2, 3))(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 3])
        >>> PooledBranch((2, 8), (2, 1, 28, 28))(torch.zeros(2, 8)).shape
        torch.Size([2, 1, 28, 28])
    """

    kind = "pooled"

    def __init__(self, point_shape: Shape, output_shape: Shape, **axes: Any) -> None:
        super().__init__(point_shape, output_shape, **axes)
        self.shape = (self.output.features, *self.output.size)
        weights = self.point.features * math.prod(self.shape)
        self._expect(len(self.shape) == 1 or weights <= MAX_FIRST_FC, f"a linear layer of {weights} weights")
        self.fc = nn.Linear(self.point.features, math.prod(self.shape))

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, *size)``."""
        return resized(self.fc(averaged(x)).unflatten(1, self.shape), size)


class SVMBranch(ShapedBranch):
    """The classifier of Deeply-Supervised Nets (Lee et al. 2015, arXiv 1409.5185): linear from the flattened map.

    Its scores are those of one linear SVM for each class, for the squared hinge loss of the paper's equation 3;
    ``fc.weight`` are the weights that its companion objective regularises. A map that would give the layer more
    than 2^24 weights is average-pooled first, and one of another size than recorded to the recorded size.

    Args:
        point_shape: ``(N, C)`` or ``(N, C, *S)`` with up to three dimensions in S.
        output_shape: ``(N, classes)`` or ``(N,)``.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Raises:
        ValueError: If the point has more than three dimensions, or the output is more than one vector.

    Example:
        >>> import torch
        >>> branch = SVMBranch((2, 8, 5, 5), (2, 3))
        >>> branch(torch.zeros(2, 8, 5, 5)).shape, branch.fc.weight.shape
        (torch.Size([2, 3]), torch.Size([3, 200]))
    """

    kind = "svm"

    def __init__(self, point_shape: Shape, output_shape: Shape, **axes: Any) -> None:
        super().__init__(point_shape, output_shape, **axes)
        fits = len(self.point.size) <= 3 and not self.output.size
        self._expect(fits, "it takes up to three dimensions to a vector")
        self.size = _affordable(self.point.size, self.point.features * self.output.features)
        self.fc = nn.Linear(self.point.features * math.prod(self.size), self.output.features)

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, classes)``."""
        scores: Tensor = self.fc(pooled_to(x, self.size).flatten(1))
        return scores


def cnds_fits(point: Layout) -> bool:
    """Whether a point is an image whose CNDS branch has a first FC of at most 2^24 weights."""
    return len(point.size) == 2 and _cnds_features(point) * 1024 <= MAX_FIRST_FC


def _cnds_features(point: Layout) -> int:
    return 64 * math.prod((length - min(5, length)) // 2 + 1 for length in point.size)


def _affordable(size: Shape, weights_each: int) -> Shape:
    """The size, with no length over an edge that keeps the layer below `MAX_FIRST_FC` weights."""
    edge = max(size, default=1)
    while edge > 1 and weights_each * math.prod(min(edge, length) for length in size) > MAX_FIRST_FC:
        edge -= 1
    return tuple(min(edge, length) for length in size)
