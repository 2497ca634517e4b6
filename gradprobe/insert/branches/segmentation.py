"""The two-output segmentation head of the source article."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.insert.branches.maps import conv3x3_bn_relu


class C1DeepSup(nn.Module):
    """The segmentation head with its auxiliary branch, as the source article has it.

    3x3 conv-BN-ReLU and 1x1 conv on the last feature map, and the same on the second to last (deep
    supervision). In training it returns the pair of log-softmaxes ``(output, auxiliary)``; for inference the
    softmax of the output, interpolated to ``segSize``.

    Args:
        num_class: Number of classes.
        fc_dim: Channels of the last feature map; the second to last has half of them.
        use_softmax: Whether to return probabilities in training mode as well.

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
