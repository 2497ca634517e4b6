"""Loss functions: their type, their name in a record, and the checks of them and of their result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

LossFunction = Callable[[Any, Any], Tensor]


@runtime_checkable
class JointLoss(Protocol):
    """A loss function that adds the losses of branches to the loss of the main output.

    `gradprobe.DeepSupervisionLoss` is one. The training loop of a scan needs no more of it than this.
    """

    def terms(self, prediction: Any, target: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of the main output and that of each branch, unweighted."""
        ...

    def join(self, main: Tensor, auxiliary: tuple[Tensor, ...]) -> Tensor:
        """The joint loss, from the terms."""
        ...


def loss_name(criterion: Any) -> str:
    """The name of a loss function in a record, with its reduction if it has one.

    Example:
        >>> loss_name(nn.CrossEntropyLoss()), loss_name(nn.functional.cross_entropy)
        ('CrossEntropyLoss (mean)', 'cross_entropy')
    """
    reduction = getattr(criterion, "reduction", None)
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return f"{name} ({reduction})" if isinstance(reduction, str) else str(name)


def loss_reduction(criterion: Any) -> str | None:
    """How a loss function makes one number of many, if it says so; of a joint loss, how the losses in it do.

    Example:
        >>> loss_reduction(nn.CrossEntropyLoss(reduction="sum")), loss_reduction(nn.functional.cross_entropy)
        ('sum', None)
    """
    reduction = getattr(getattr(criterion, "loss_fn", criterion), "reduction", None)
    return reduction if isinstance(reduction, str) else None


def check_loss_fn(loss_fn: Any) -> None:
    """Raise TypeError if this cannot be called as ``loss_fn(output, target)``: batches, a class, ..."""
    if not callable(loss_fn):
        raise TypeError(
            f"expected loss_fn to be a function (output, target) -> scalar, got {type(loss_fn).__name__}: pass "
            "(model, batches, loss_fn) in this order, with a loss such as torch.nn.functional.cross_entropy"
        )
    if isinstance(loss_fn, type) and issubclass(loss_fn, nn.Module):
        name = loss_fn.__name__
        raise TypeError(
            f"expected loss_fn to be a function (output, target) -> scalar, got the class {name}: pass {name}()"
        )
    if not _takes_two(loss_fn):
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise TypeError(
            "expected loss_fn to be a function (output, target) -> scalar, got one that cannot be called with "
            f"two arguments: {name}{inspect.signature(loss_fn)}"
        )


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function takes two positional arguments; True where its signature is not known."""
    try:
        inspect.signature(function).bind(None, None)
    except ValueError:  # a built-in may have no signature
        return True
    except TypeError:
        return False
    return True


def check_loss(loss: Any) -> None:
    """Raise TypeError if a loss is no scalar tensor, ValueError if it does not depend on a parameter."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"expected the loss to be a scalar tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise TypeError(
            f"expected the loss to be a scalar, got a tensor of shape {tuple(loss.shape)}: take its .mean()"
        )
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on any trainable parameter: it is detached or a constant")
