"""The branch that predicts for every token, or for a whole sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gradprobe.insert.branches.base import ShapedBranch, averaged, normalisation, pooled_to
from gradprobe.network.layout import Shape


class TokenBranch(ShapedBranch):
    """Layer norm and one linear layer for every token; averaged over the tokens if the output has none.

    A map is read as the sequence of its positions. Where the output has another number of tokens, the point's are
    averaged or repeated to that number (adaptive average pooling).

    Args:
        point_shape: ``(N, T, C)``, or a map ``(N, C, *S)``.
        output_shape: ``(N, T, K)``, or ``(N, K)`` or ``(N,)`` for one prediction for each sequence.
        **axes: ``channels``, ``output_channels`` and ``batch``, if known.

    Raises:
        ValueError: If the point has no positions, or the output is no sequence.

    Example:
        >>> import torch
        >>> TokenBranch((2, 7, 8), (2, 3))(torch.zeros(2, 7, 8)).shape
        torch.Size([2, 3])
        >>> TokenBranch((2, 8, 6, 6), (2, 10, 3))(torch.zeros(2, 8, 6, 6)).shape
        torch.Size([2, 10, 3])
    """

    kind = "token"

    def __init__(self, point_shape: Shape, output_shape: Shape, **axes: Any) -> None:
        super().__init__(point_shape, output_shape, **axes)
        fits = len(self.point.size) >= 1 and len(self.output.size) <= 1
        self._expect(fits, "it takes positions to tokens or to a vector")
        self.norm = normalisation(self.point.features)
        self.fc = nn.Linear(self.point.features, self.output.features)

    def predict(self, x: Tensor, size: Shape) -> Tensor:
        """Map ``(N, C, *S)`` to ``(N, K, T)`` or ``(N, K)``."""
        tokens = pooled_to(x.flatten(2), size).transpose(1, 2) if size else averaged(x)
        out: Tensor = self.fc(self.norm(tokens))
        return out.transpose(1, 2) if size else out
