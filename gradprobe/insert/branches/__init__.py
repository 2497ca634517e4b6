"""The auxiliary classifiers: built from the recorded shapes of the point and of the network's output.

Every branch computes on ``(N, C, *S)`` and returns ``(N, K, *R)``; `layout` converts points and predictions. Which
branch is chosen follows from S, R and whether the point is a sequence of tokens:

=====================  ===============================  =========
point                  output                           branch
=====================  ===============================  =========
image                  vector                           cnds, or pooled where its first FC is too large
tokens                 vector, tokens                   token
image, volume          tokens                           token
map                    map of as many dimensions        dense
tokens that are a map  map                              dense
any                    vector, tokens of a vocabulary   shared, if the trunk ends in a linear layer
any other              any other                        pooled
any                    several outputs                  one branch for each
=====================  ===============================  =========
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, cast

from torch import Tensor, nn

from gradprobe.insert.branches.base import Branch as Branch
from gradprobe.insert.branches.base import ShapedBranch as ShapedBranch
from gradprobe.insert.branches.maps import DenseBranch as DenseBranch
from gradprobe.insert.branches.maps import NativeBranch as NativeBranch
from gradprobe.insert.branches.maps import conv3x3_bn_relu as conv3x3_bn_relu
from gradprobe.insert.branches.segmentation import C1DeepSup as C1DeepSup
from gradprobe.insert.branches.shared import SharedBranch as SharedBranch
from gradprobe.insert.branches.shared import outweighs
from gradprobe.insert.branches.tokens import TokenBranch as TokenBranch
from gradprobe.insert.branches.vectors import MAX_FIRST_FC as MAX_FIRST_FC
from gradprobe.insert.branches.vectors import CNDSBranch as CNDSBranch
from gradprobe.insert.branches.vectors import PooledBranch as PooledBranch
from gradprobe.insert.branches.vectors import SVMBranch as SVMBranch
from gradprobe.insert.branches.vectors import cnds_fits
from gradprobe.network.layout import Layout, Shape, class_tokens, layouts
from gradprobe.record.branches import BRANCH_NAMES

OutputShape = Shape | tuple[Shape, ...]
BranchFactory = Callable[[Shape, Any], nn.Module]
BRANCHES: dict[str, type[ShapedBranch]] = {
    "cnds": CNDSBranch,
    "pooled": PooledBranch,
    "dense": DenseBranch,
    "native": NativeBranch,
    "token": TokenBranch,
    "shared": SharedBranch,
    "svm": SVMBranch,
}


class ListBranch(Branch):
    """One branch for each tensor of an output that is a list, as detection networks return it.

    Args:
        branches: In the order of the outputs.

    Example:
        >>> import torch
        >>> branch = build_branch("auto", (2, 8, 16, 16), ((2, 4, 8, 8), (2, 6)))
        >>> [tuple(prediction.shape) for prediction in branch(torch.zeros(2, 8, 16, 16))]
        [(2, 4, 8, 8), (2, 6)]
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, point: Tensor, like: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The predictions for a point, in the order of the outputs.

        Args:
            point: In the recorded layout.
            like: The trunk's outputs: the predictions get their sizes; without them the recorded sizes.
        """
        likes = [None] * len(self.branches) if like is None else like
        return [branch(point, like=each) for branch, each in zip(self.branches, likes, strict=True)]


def build_branch(
    branch: str | BranchFactory,
    point_shape: Shape,
    output_shape: OutputShape,
    *,
    channels: int | None = None,
    output_channels: int | None = None,
    batch: int | None = None,
    head: nn.Module | None = None,
    activation: str | None = None,
) -> nn.Module:
    """Build the branch for a point.

    Args:
        branch: ``"auto"``, a name out of `BRANCHES`, or a function of both shapes that returns a module.
        point_shape: Recorded shape of the point.
        output_shape: Recorded shape of the network's output, or a tuple of shapes if it is a list of tensors.
        channels: Axis of the point's channels; None: as `gradprobe.network.layout.layouts` finds it.
        output_channels: The same for the output (for each, if there are several).
        batch: Axis of the point's samples, if known.
        head: The trunk's own last layer, for ``"shared"``; ``"auto"`` shares it from 4096 classes on.
        activation: The last function of the trunk's output, if it limits the range of values: ``"sigmoid"``,
            ``"log_sigmoid"``, ``"tanh"``, ``"softmax"``, ``"log_softmax"`` or ``"unit_length"``. The branch ends
            in it as well, except ``"svm"``, which returns scores.

    Returns:
        A `Branch`, to be called ``branch(point, like=output)``; or what the function returned.

    Raises:
        TypeError: If ``branch`` is neither a name nor a function, or the function returns no module.
        ValueError: If there is no such branch, or the shapes do not suit it; the message has both.

    Example:
        >>> type(build_branch("auto", (8, 64, 14, 14), (8, 10))).__name__
        'CNDSBranch'
        >>> build_branch(lambda point, output: nn.Linear(point[1], output[1]), (8, 5), (8, 2))
        Linear(in_features=5, out_features=2, bias=True)
    """
    check_branch(branch)
    if isinstance(branch, str):
        built = _build_by_name(branch, point_shape, output_shape, (channels, output_channels, batch), head)
        for part in built.modules():
            if isinstance(part, ShapedBranch) and not isinstance(part, SVMBranch):
                part.activation = activation
        return built
    returned = branch(point_shape, output_shape)
    if not isinstance(returned, nn.Module):
        raise TypeError(f"expected branch= to return a torch.nn.Module, got {type(returned).__name__}")
    return returned


def check_branch(branch: Any) -> None:
    """Raise ValueError if no branch has this name, TypeError for anything but a name or a function."""
    if isinstance(branch, str) and branch not in BRANCH_NAMES:
        raise ValueError(f"expected branch= out of {list(BRANCH_NAMES)} or a function, got {branch!r}")
    if not isinstance(branch, str) and not callable(branch):
        raise TypeError(f"expected branch= to be a name or a function, got {type(branch).__name__}")


def _build_by_name(
    name: str,
    point: Shape,
    output: OutputShape,
    axes: tuple[int | None, int | None, int | None],
    head: nn.Module | None,
) -> Branch:
    if _is_list(output):
        return ListBranch([_build_by_name(name, point, shape, axes, head) for shape in output])
    shapes = point, cast("Shape", output)
    kind = _kind_for(*layouts("auto", *shapes, *axes), head) if name == "auto" else name
    extra: dict[str, Any] = {"head": head} if kind == "shared" else {}
    return BRANCHES[kind](*shapes, channels=axes[0], output_channels=axes[1], batch=axes[2], **extra)


def _is_list(output: OutputShape) -> TypeGuard[tuple[Shape, ...]]:
    return bool(output) and not isinstance(output[0], int)


def _kind_for(point: Layout, output: Layout, head: nn.Module | None) -> str:
    dimensions, output_dimensions = len(point.size), len(output.size)
    if output_dimensions <= min(1, dimensions) and outweighs(output, head):
        return "shared"
    if output_dimensions == 0:
        if point.is_sequence:
            return "token"
        return "cnds" if cnds_fits(point) else "pooled"
    if output_dimensions == 1 and (point.is_sequence or dimensions in (2, 3)):
        return "token"
    if class_tokens(point, output) is not None or dimensions == output_dimensions <= 3:
        return "dense"
    return "pooled"
