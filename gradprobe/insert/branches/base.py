"""What branches have in common: the layouts of the point and the output, and predictions of the output's size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.network.layout import Shape, layouts, no_branch

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "softmax": partial(F.softmax, dim=1),
    "log_softmax": partial(F.log_softmax, dim=1),
    "unit_length": partial(F.normalize, dim=1),
}
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Branch(nn.Module):
    """A branch that is called ``branch(point, like=output)``, with the trunk's output in this forward pass.

    `gradprobe.SupervisedModel` calls every other module ``branch(point)``. Derive a module of your own from this
    class to get the output as well, whose sizes change with the size of the input.

    Example:
        >>> import torch
        >>> from gradprobe.insert.branches import DenseBranch
        >>> branch = DenseBranch((2, 8, 4, 4), (2, 3, 16, 16))
        >>> branch(torch.zeros(2, 8, 5, 5), like=torch.zeros(2, 3, 20, 20)).shape
        torch.Size([2, 3, 20, 20])
    """


class ShapedBranch(Branch):
    """A branch that computes on ``(N, C, *S)`` and returns ``(N, K, *R)``, whatever the layouts outside are.

    Attributes:
        activation: Name out of `ACTIVATIONS` of the function that the trunk's output ends in as well, or None.

    Args:
        point_shape: Recorded shape of the point.
        output_shape: Recorded shape of the network's output.
        channels: Axis of the point's channels, if known (`gradprobe.network.layout.layouts`).
        output_channels: Axis of the output's channels, if known.
        batch: Axis of the point's samples, if known.

    Raises:
        ValueError: If the shapes do not suit the branch; the message has both.

    Example:
        >>> import torch
        >>> class Strongest(ShapedBranch):
        ...     kind = "strongest"
        ...
        ...     def predict(self, x, size):
        ...         return x.flatten(2).amax(2)
        >>> Strongest((2, 4, 5, 8), (2, 8), channels=3)(torch.zeros(2, 4, 5, 8)).shape
        torch.Size([2, 8])
    """

    kind: ClassVar[str]
    activation: str | None = None

    def __init__(
        self,
        point_shape: Shape,
        output_shape: Shape,
        *,
        channels: int | None = None,
        output_channels: int | None = None,
        batch: int | None = None,
    ) -> None:
        super().__init__()
        self.point, self.output = layouts(self.kind, point_shape, output_shape, channels, output_channels, batch)

    def forward(self, point: Tensor, like: Tensor | None = None) -> Tensor:
        """The prediction for a point, in the output's layout.

        Args:
            point: In the recorded layout.
            like: The trunk's output: the prediction gets its size; without it the recorded size.
        """
        size = self.output.size if like is None else self.output.size_of(like.shape)
        prediction = self.predict(self.point.to_channels_first(point), size)
        if self.activation is not None:
            prediction = ACTIVATIONS[self.activation](prediction)
        return self.output.from_channels_first(prediction)

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, *size)``."""
        raise NotImplementedError(f"{type(self).__name__}.predict")

    def _expect(self, fits: bool, why: str) -> None:
        """Raise ValueError, with the shapes and the reason, if they do not suit the branch."""
        if not fits:
            raise ValueError(no_branch(self.kind, self.point.shape, self.output.shape, why))


def averaged(x: Tensor) -> Tensor:
    """``(N, C, *S)`` averaged over the positions: ``(N, C)``.

    Example:
        >>> import torch
        >>> averaged(torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]))
        tensor([[2., 6.]])
    """
    return x.flatten(2).mean(2) if x.dim() > 2 else x


def pooled_to(x: Tensor, size: Shape) -> Tensor:
    """``(N, C, *S)`` with its positions averaged (or repeated) to another size of one to three dimensions.

    Example:
        >>> import torch
        >>> pooled_to(torch.tensor([[[1.0, 3.0, 5.0, 7.0]]]), (2,))
        tensor([[[2., 6.]]])
    """
    if x.shape[2:] == size:
        return x
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    pooled: Tensor = pool(x, size)
    return pooled


def resized(x: Tensor, size: Shape) -> Tensor:
    """``(N, K, *S)`` interpolated linearly to another size of one to three dimensions.

    Raises:
        ValueError: If the size is another one and has more dimensions.

    Example:
        >>> import torch
        >>> resized(torch.tensor([[[0.0, 4.0]]]), (4,))
        tensor([[[0., 1., 3., 4.]]])
    """
    if x.shape[2:] == size:
        return x
    if len(size) not in _MODES:
        raise ValueError(f"expected the recorded size {tuple(x.shape[2:])}, got {size}: only maps are resized")
    return F.interpolate(x, size=size, mode=_MODES[len(size)], align_corners=False)


def contiguous_if_compiling(x: Tensor) -> Tensor:
    """The same values, contiguous in memory while compiling: a compiled convolution needs that.

    Inductor (torch 2.13, sizes dynamic) raises "cannot determine truth value of Relational" on a permutation, even
    an empty one, before a convolution. Eager convolutions take channels-last memory as it is, and faster.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, 4, 5, 8).movedim(3, 1)
        >>> contiguous_if_compiling(x) is x
        True
    """
    return x.contiguous() if torch.compiler.is_compiling() else x


def normalisation(features: int) -> nn.Module:
    """Layer normalisation over the channels; none for a single channel, which it would make constant."""
    return nn.LayerNorm(features) if features > 1 else nn.Identity()
