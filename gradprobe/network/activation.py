"""The activation that makes a network's output."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gradprobe.network.tensors import main_output

_RESHAPES = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "Clone",
    "Alias",
)
_ACTIVATIONS = {
    "SigmoidBackward0": "sigmoid",
    "LogSigmoidBackward0": "log_sigmoid",
    "TanhBackward0": "tanh",
    "SoftmaxBackward0": "softmax",
    "LogSoftmaxBackward0": "log_softmax",
}


def output_activation(result: Any) -> str | None:
    """The last function before the main output, if it limits the range of values.

    The user's loss may count on it (``NLLLoss`` after a log-softmax, ``BCELoss`` after a sigmoid).

    Example:
        >>> import torch
        >>> output_activation(torch.ones(2, 3, requires_grad=True).sigmoid().view(6))
        'sigmoid'
    """
    main = main_output(result)
    node = main.grad_fn if isinstance(main, Tensor) else None
    while node is not None and type(node).__name__.startswith(_RESHAPES):
        node = node.next_functions[0][0]
    return None if node is None else _ACTIVATIONS.get(type(node).__name__)
