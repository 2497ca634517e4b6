"""The branch that shares the trunk's own last layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gradprobe.insert.branches.base import ShapedBranch, contiguous_if_compiling, normalisation, pooled_to, resized
from gradprobe.insert.branches.maps import as_map
from gradprobe.network.layout import Layout, Shape, class_tokens, no_branch

# Label sets are smaller and vocabularies larger. From here on a last layer of its own (every branch needs one)
# has more weights than a transformer block (12 C^2) of up to C = 341 channels.
VOCABULARY = 4096


class SharedBranch(ShapedBranch):
    """Layer norm, then the trunk's own last layer, as in DETR and in language models with early exits.

    (Carion et al. 2020, arXiv 2005.12872, "auxiliary decoding losses": "prediction FFNs share their parameters";
    Schuster et al. 2022, arXiv 2207.07061.) If the point has another number of channels than the layer takes, a
    linear projection comes in between. The layer stays the trunk's: it is called as a module and learns from the
    branch, but does not belong to the branch's parameters, state dict or mode. Copy and pickle both together.

    Args:
        point_shape: ``(N, C)``, ``(N, T, C)`` or ``(N, C, *S)``.
        output_shape: ``(N, K)``, ``(N, T, K)`` or ``(N, K, *R)``.
        head: The trunk's last layer: `torch.nn.Linear`, or anything that has its ``in_features`` and
            ``out_features``, or a 1x1 convolution.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Raises:
        ValueError: If the head is no such layer or does not make K numbers, or the shapes do not suit it.

    Example:
        >>> import torch
        >>> branch = SharedBranch((2, 7, 8), (2, 7, 5000), head=nn.Linear(8, 5000))
        >>> branch(torch.zeros(2, 7, 8)).shape
        torch.Size([2, 7, 5000])
        >>> list(branch.state_dict())
        ['norm.weight', 'norm.bias']
    """

    kind = "shared"

    def __init__(
        self, point_shape: Shape, output_shape: Shape, *, head: nn.Module | None = None, **axes: Any
    ) -> None:
        super().__init__(point_shape, output_shape, **axes)
        in_features, out_features = _features(head)
        if head is None or out_features != self.output.features:
            expected = "expected the trunk's last layer to be nn.Linear or a 1x1 convolution that makes"
            why = f"{expected} {self.output.features} numbers, got {head}"
            raise ValueError(no_branch(self.kind, point_shape, output_shape, why))
        self.leading = class_tokens(self.point, self.output)
        self._expect(_suits(head, self.point, self.output), f"{head} cannot be applied to such a point")
        self.norm = normalisation(self.point.features)
        same = self.point.features == in_features
        self.project = nn.Identity() if same else nn.Linear(self.point.features, in_features)
        self._head = (head,)  # in a tuple, where nn.Module does not look for submodules

    @property
    def head(self) -> nn.Module:
        """The trunk's last layer."""
        return self._head[0]

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, *size)``."""
        if not size:
            positions = tuple(range(2, x.dim()))
            return self._scores(x.mean(positions, keepdim=True) if positions else x).flatten(1)
        if len(size) == 1:
            return self._scores(pooled_to(x.flatten(2), size))
        return resized(self._scores(as_map(x, self.leading, size)), size)

    def _scores(self, x: Tensor) -> Tensor:
        hidden = self.project(self.norm(x.movedim(1, -1)))
        if _is_conv(self.head):
            scores: Tensor = self.head(contiguous_if_compiling(hidden.movedim(-1, 1)))
        else:
            scores = self.head(hidden).movedim(-1, 1)
        return scores


def outweighs(output: Layout, head: nn.Module | None) -> bool:
    """Whether the trunk ends in a linear layer to a vocabulary: too large for every branch to have its own."""
    return isinstance(head, nn.Linear) and head.out_features == output.features >= VOCABULARY


def _features(head: Any) -> tuple[int, int]:
    if _is_conv(head):
        pointwise = set(head.kernel_size) == set(head.stride) == {1} and set(head.padding) == {0}
        return (head.in_channels, head.out_channels) if pointwise else (0, 0)
    return getattr(head, "in_features", 0), getattr(head, "out_features", 0)


def _is_conv(head: nn.Module | None) -> bool:
    return isinstance(head, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _suits(head: Any, point: Layout, output: Layout) -> bool:
    dimensions = len(output.size) or len(point.size)  # of the map that the layer is applied to
    if _is_conv(head) and len(head.kernel_size) != dimensions:
        return False
    if len(output.size) <= 1:
        return len(point.size) >= len(output.size)
    return dimensions <= 3 and (len(point.size) == dimensions or class_tokens(point, output) is not None)
