"""The auxiliary classifiers: built from the recorded shapes of the point and of the network's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
BranchFactory = Callable[[Shape, Shape], nn.Module]
MAX_FIRST_FC = 2**24  # beyond it the first FC of the CNDS branch outweighs most networks


class CNDSBranch(nn.Module):
    """The auxiliary supervision branch of CNDS (Wang et al. 2015, arXiv 1505.02496, authors' released file).

    Average pool 5x5/2, 1x1 convolution to 64, FC 1024 + ReLU + dropout .5, twice, FC classes. On a map
    smaller than 5x5 the pool takes the whole map.

    Args:
        point_shape: ``(N, C, H, W)``.
        output_shape: ``(N, classes)``.

    Example:
        >>> import torch
        >>> branch = CNDSBranch((2, 8, 13, 13), (2, 10))
        >>> branch(torch.zeros(2, 8, 13, 13)).shape
        torch.Size([2, 10])
    """

    def __init__(self, point_shape: Shape, output_shape: Shape) -> None:
        super().__init__()
        _expect(len(point_shape) == 4 and len(output_shape) == 2, "cnds", point_shape, output_shape)
        window = (min(5, point_shape[2]), min(5, point_shape[3]))
        self.pool = nn.AvgPool2d(window, stride=2)
        self.conv = nn.Conv2d(point_shape[1], 64, 1)
        self.fc1 = nn.Linear(_cnds_features(point_shape), 1024)
        self.fc2 = nn.Linear(1024, 1024)
        self.fc3 = nn.Linear(1024, output_shape[1])
        self.dropout = nn.Dropout(0.5)

    def forward(self, point: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, classes)``."""
        hidden = self.conv(self.pool(point)).flatten(1)
        hidden = self.dropout(F.relu(self.fc1(hidden)))
        hidden = self.dropout(F.relu(self.fc2(hidden)))
        out: Tensor = self.fc3(hidden)
        return out


class PooledBranch(nn.Module):
    """Global average over the spatial dimensions, then one linear layer.

    Args:
        point_shape: ``(N, C)`` or ``(N, C, ...)``.
        output_shape: ``(N, K)``.

    Example:
        >>> import torch
        >>> PooledBranch((2, 8, 5, 5), (2, 3))(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, point_shape: Shape, output_shape: Shape) -> None:
        super().__init__()
        _expect(len(point_shape) >= 2 and len(output_shape) == 2, "pooled", point_shape, output_shape)
        self.fc = nn.Linear(point_shape[1], output_shape[1])

    def forward(self, point: Tensor) -> Tensor:
        """Map ``(N, C, ...)`` to ``(N, K)``."""
        pooled = point.flatten(2).mean(2) if point.dim() > 2 else point
        out: Tensor = self.fc(pooled)
        return out


class DenseBranch(nn.Module):
    """Dense prediction: 3x3 conv-BN-ReLU, 1x1 convolution, resized to the output's height and width.

    Args:
        point_shape: ``(N, C, H, W)``.
        output_shape: ``(N, K, H', W')``.

    Example:
        >>> import torch
        >>> DenseBranch((2, 8, 4, 4), (2, 3, 16, 16))(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, point_shape: Shape, output_shape: Shape) -> None:
        super().__init__()
        _expect(len(point_shape) == 4 and len(output_shape) == 4, "dense", point_shape, output_shape)
        hidden = max(1, point_shape[1] // 4)
        self.cbr = conv3x3_bn_relu(point_shape[1], hidden)
        self.conv = nn.Conv2d(hidden, output_shape[1], 1)
        self.size = output_shape[2:]

    def forward(self, point: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, K, H', W')``."""
        return F.interpolate(self.conv(self.cbr(point)), size=self.size, mode="bilinear", align_corners=False)


class TokenBranch(nn.Module):
    """Layer norm and one linear layer for every token; averaged over the tokens if the output has none.

    Args:
        point_shape: ``(N, T, C)``.
        output_shape: ``(N, T, K)``, or ``(N, K)`` for one answer for each sequence.

    Example:
        >>> import torch
        >>> TokenBranch((2, 7, 8), (2, 3))(torch.zeros(2, 7, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, point_shape: Shape, output_shape: Shape) -> None:
        super().__init__()
        _expect(len(point_shape) == 3 and len(output_shape) in (2, 3), "token", point_shape, output_shape)
        self.norm = nn.LayerNorm(point_shape[2])
        self.fc = nn.Linear(point_shape[2], output_shape[-1])
        self.pooled = len(output_shape) == 2

    def forward(self, point: Tensor) -> Tensor:
        """Map ``(N, T, C)`` to ``(N, T, K)`` or ``(N, K)``."""
        out: Tensor = self.fc(self.norm(point.mean(1) if self.pooled else point))
        return out


class C1DeepSup(nn.Module):
    """The segmentation head with its auxiliary branch, as the source article has it.

    3x3 conv-BN-ReLU and 1x1 conv on the last feature map, and the same on the last but one (deep
    supervision). In training it returns the pair of log-softmaxes ``(output, auxiliary)``; for inference the
    softmax of the output, interpolated to ``segSize``.

    Args:
        num_class: Number of classes.
        fc_dim: Channels of the last feature map; the last but one has half of them.
        use_softmax: Inference whatever the train flag says.

    Example:
        >>> import torch
        >>> head = C1DeepSup(num_class=5, fc_dim=16)
        >>> maps = [torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4)]
        >>> [tuple(scores.shape) for scores in head(maps)]
        [(2, 5, 4, 4), (2, 5, 8, 8)]
        >>> head.eval()(maps, segSize=(32, 32)).shape
        torch.Size([2, 5, 32, 32])
    """

    def __init__(self, num_class: int = 150, fc_dim: int = 2048, use_softmax: bool = False) -> None:
        super().__init__()
        self.use_softmax = use_softmax
        self.cbr = conv3x3_bn_relu(fc_dim, fc_dim // 4)
        self.cbr_deepsup = conv3x3_bn_relu(fc_dim // 2, fc_dim // 4)
        self.conv_last = nn.Conv2d(fc_dim // 4, num_class, 1)
        self.conv_last_deepsup = nn.Conv2d(fc_dim // 4, num_class, 1)

    def forward(self, conv_out: list[Tensor], segSize: tuple[int, int] | None = None) -> Any:  # noqa: N803
        """Feature maps in forward order, each ``(N, C, H, W)``, to log-probabilities or probabilities."""
        scores = self.conv_last(self.cbr(conv_out[-1]))
        if self.use_softmax or not self.training:
            if segSize is not None:
                scores = F.interpolate(scores, size=segSize, mode="bilinear", align_corners=False)
            return F.softmax(scores, dim=1)
        auxiliary = self.conv_last_deepsup(self.cbr_deepsup(conv_out[-2]))
        return F.log_softmax(scores, dim=1), F.log_softmax(auxiliary, dim=1)


def conv3x3_bn_relu(in_planes: int, out_planes: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution without bias, batch normalisation, ReLU.

    Example:
        >>> import torch
        >>> conv3x3_bn_relu(4, 8, stride=2)(torch.zeros(2, 4, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """
    return nn.Sequential(
        nn.Conv2d(in_planes, out_planes, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_planes),
        nn.ReLU(inplace=True),
    )


BRANCHES: dict[str, BranchFactory] = {
    "cnds": CNDSBranch,
    "pooled": PooledBranch,
    "dense": DenseBranch,
    "token": TokenBranch,
}


def build_branch(branch: str | BranchFactory, point_shape: Shape, output_shape: Shape) -> nn.Module:
    """Build the branch for a point.

    Args:
        branch: ``"auto"``, a name out of `BRANCHES`, or a function of both shapes that returns a module.
        point_shape: Recorded shape of the point, batch first.
        output_shape: Recorded shape of the network's output, batch first.

    Raises:
        ValueError: No such branch, or these shapes do not suit it; the message says which came.

    Example:
        >>> type(build_branch("auto", (8, 64, 14, 14), (8, 10))).__name__
        'CNDSBranch'
        >>> build_branch(lambda point, output: nn.Linear(point[1], output[1]), (8, 5), (8, 2))
        Linear(in_features=5, out_features=2, bias=True)
    """
    if isinstance(branch, str):
        kind = _auto(point_shape, output_shape) if branch == "auto" else branch
        if kind not in BRANCHES:
            raise ValueError(f"expected branch= out of {['auto', *BRANCHES]} or a function, got {branch!r}")
        return BRANCHES[kind](point_shape, output_shape)
    if not callable(branch):
        raise TypeError(f"expected branch= to be a name or a function, got {type(branch).__name__}")
    built = branch(point_shape, output_shape)
    if not isinstance(built, nn.Module):
        raise TypeError(f"expected branch= to return a torch.nn.Module, got {type(built).__name__}")
    return built


def _auto(point_shape: Shape, output_shape: Shape) -> str:
    dimensions = len(point_shape), len(output_shape)
    if dimensions == (4, 2):
        return "cnds" if _cnds_features(point_shape) * 1024 <= MAX_FIRST_FC else "pooled"
    if dimensions == (4, 4):
        return "dense"
    if dimensions in ((3, 3), (3, 2)):
        return "token"
    if dimensions == (2, 2) or (len(point_shape) > 4 and len(output_shape) == 2):
        return "pooled"
    raise ValueError(_no_branch("auto", point_shape, output_shape))


def _cnds_features(point_shape: Shape) -> int:
    return 64 * math.prod((size - min(5, size)) // 2 + 1 for size in point_shape[2:])


def _expect(fits: bool, branch: str, point_shape: Shape, output_shape: Shape) -> None:
    if not fits:
        raise ValueError(_no_branch(branch, point_shape, output_shape))


def _no_branch(branch: str, point_shape: Shape, output_shape: Shape) -> str:
    return (
        f"no {branch!r} branch from a point of shape {point_shape} to an output of shape {output_shape}: "
        "pass branch=lambda point_shape, output_shape: <your nn.Module>"
    )
