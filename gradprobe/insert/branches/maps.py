"""Branches that make maps: dense prediction in one, two and three dimensions."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from gradprobe.insert.branches.base import ShapedBranch, contiguous_if_compiling, resized
from gradprobe.network.layout import Shape, class_tokens, grid

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class DenseBranch(ShapedBranch):
    """Dense prediction: 3x3 conv-BN-ReLU to a quarter of the channels, 1x1 convolution, resized to the output.

    In one, two or three dimensions, with linear, bilinear or trilinear interpolation. Tokens that are a grid of
    the output's proportions, with or without a class token before them, are laid out as that map first. If the
    recorded map is a single position there is no batch normalisation, because in a batch of one it would have a
    single value per channel (GroupNorm fails in the same way where a group is a single channel).

    Args:
        point_shape: ``(N, C, *S)``, S of one to three dimensions, or tokens ``(N, T, C)``.
        output_shape: ``(N, K, *R)``, or ``(N, *R)`` for one map; R of as many dimensions as S.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Raises:
        ValueError: If these are not maps of the same number of dimensions, nor tokens that are such a grid.

    Example:
        >>> import torch
        >>> DenseBranch((2, 8, 4, 4), (2, 3, 16, 16))(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3, 16, 16])
        >>> DenseBranch((2, 17, 8), (2, 3, 16, 16))(torch.zeros(2, 17, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    kind = "dense"

    def __init__(self, point_shape: Shape, output_shape: Shape, **axes: Any) -> None:
        super().__init__(point_shape, output_shape, **axes)
        self.leading = class_tokens(self.point, self.output)
        dimensions = len(self.output.size)
        fits = self.leading is not None or len(self.point.size) == dimensions
        self._expect(fits and dimensions in _CONV, "it takes a map, or tokens of its proportions, to a map")
        hidden = max(1, self.point.features // 4)
        self.cbr = conv3x3_bn_relu(self.point.features, hidden, dimensions=dimensions)
        if math.prod(self.point.size) - (self.leading or 0) == 1:
            self.cbr[1] = nn.Identity()
        self.conv = _CONV[dimensions](hidden, self.output.features, 1)

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, *size)``."""
        return resized(self.scores(x, size), size)

    def scores(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, *S)``, tokens laid out in the proportions of ``size``."""
        out: Tensor = self.conv(self.cbr(contiguous_if_compiling(as_map(x, self.leading, size))))
        return out


class NativeBranch(DenseBranch):
    """The dense branch at the point's own resolution, as in nnU-Net (Isensee et al. 2021).

    The loss resizes the target instead of the prediction.

    Args:
        point_shape: ``(N, C, *S)``, or tokens ``(N, T, C)``.
        output_shape: ``(N, K, *R)``.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Example:
        >>> import torch
        >>> NativeBranch((2, 8, 4, 4), (2, 3, 16, 16))(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    kind = "native"

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, *S)``."""
        return self.scores(x, size)


def as_map(x: Tensor, leading: int | None, size: Shape) -> Tensor:
    """Tokens ``(N, C, T)`` without the leading ones as a map of the proportions of ``size``; maps as they are.

    Raises:
        ValueError: If the tokens are no such grid.

    Example:
        >>> import torch
        >>> as_map(torch.zeros(2, 8, 33), 1, (16, 32)).shape
        torch.Size([2, 8, 4, 8])
    """
    if leading is None:
        return x
    cells = x[:, :, leading:]
    # the length of a range is not symbolic: inductor cannot index with square roots, so each grid is compiled anew
    shape = grid(len(range(cells.shape[2])), tuple(len(range(length)) for length in size))
    if shape is None:
        raise ValueError(
            f"expected tokens that are a grid of the output's proportions {size}, got {cells.shape[2]}"
        )
    on_grid: Tensor = cells.unflatten(2, shape)
    return on_grid


def conv3x3_bn_relu(in_planes: int, out_planes: int, stride: int = 1, *, dimensions: int = 2) -> nn.Sequential:
    """3x3 convolution without bias, batch normalisation, ReLU; in one, two or three dimensions.

    Example:
        >>> import torch
        >>> conv3x3_bn_relu(4, 8, stride=2)(torch.zeros(2, 4, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """
    return nn.Sequential(
        _CONV[dimensions](in_planes, out_planes, 3, stride=stride, padding=1, bias=False),
        _BATCH_NORM[dimensions](out_planes),
        nn.ReLU(inplace=True),
    )
