"""Which iterations and which elements are looked at: enough to judge by, at a cost that does not grow."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from gradprobe.measure.reduction.values import is_plain, local_part

ROWS = 16  # examples of a batch
_FIRST = 4  # iterations from the first on that are all looked at: there it is decided what can be learned
_EVERY = 4
_LEAST = 2**14  # elements of all weights together, of which a step needs `BYTES_OF_EACH`: .5 MB
_SHARE = 1000  # of a larger network one element in so many
_BUDGET = 2**18  # elements looked at of all layers together
BYTES_OF_EACH = 32
"""Bytes that the evidence needs of each sampled element of a weight, at most: the element before the step (4), the
sum of its gradients (4), the number of its layer (4); and while a step is looked at, the element or its gradient
(4), and the same and its square in float64 (16). With one element of 4 bytes in 1,000: .8 % of the parameters."""


def is_sampled(iteration: int) -> bool:
    """Whether an iteration is looked at beside its gradients.

    Example:
        >>> [iteration for iteration in range(14) if is_sampled(iteration)]
        [0, 1, 2, 3, 4, 8, 12]
    """
    return iteration < _FIRST or iteration % _EVERY == 0


def elements_of_each(weights: int, elements: int) -> int:
    """How many elements are kept of each weight: 256, or fewer where there are many, so that it is .1 % of them.

    Args:
        weights: How many weights there are.
        elements: How many elements they have together.

    Example:
        >>> elements_of_each(10, 10**6), elements_of_each(1000, 4 * 10**6), elements_of_each(1000, 10**9)
        (256, 16, 65)
    """
    together = min(_BUDGET // 4, max(_LEAST, elements // _SHARE))
    return max(16, min(256, together // max(1, weights)))


def units_of_each(layers: int) -> int:
    """How many elements of each row of a layer's output are looked at.

    Example:
        >>> units_of_each(10), units_of_each(1000)
        (256, 16)
    """
    return max(16, min(256, _BUDGET // (ROWS * max(1, layers))))


def strided(size: int, most: int) -> slice:
    """At most so many indices out of a range, evenly, from within it.

    Example:
        >>> list(range(100))[strided(100, 4)]
        [12, 37, 62, 87]
    """
    step = max(1, size // most)
    return slice((step - 1) // 2, (step - 1) // 2 + step * most, step)


def some_of(tensor: Tensor, most: int) -> Tensor | None:
    """A view of at most ``most`` elements of a dense tensor, evenly in its memory; None where there is none.

    Example:
        >>> import torch
        >>> some_of(torch.arange(8.0), 4)
        tensor([0., 2., 4., 6.])
    """
    tensor = local_part(tensor.detach())
    count = tensor.numel()
    if not count or not is_plain(tensor) or tensor.is_complex() or not _is_dense(tensor):
        return None
    step = max(1, count // most)
    return tensor.as_strided((min(count, most),), (step,), tensor.storage_offset())


def _is_dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=lambda axis: -strides[axis])).is_contiguous()


def sample_output(output: Tensor, channels: int, batch: int, most: int) -> Tensor:
    """A copy of a few rows and elements of a layer's output, in float32.

    Args:
        output: At least two axes.
        channels: The axis of the units.
        batch: The axis of the examples.
        most: How many elements of a row.

    Returns:
        Shape ``(rows, units, positions)``.

    Example:
        >>> import torch
        >>> sample_output(torch.ones(32, 8, 14, 14), 1, 0, 256).shape
        torch.Size([16, 8, 9])
    """
    sizes, strides, first = _strided_view(tuple(output.shape), output.stride(), channels, batch, most)
    some = output.detach().as_strided(sizes, strides, output.storage_offset() + first)
    if some.dtype is torch.float32:
        copy = some.clone(memory_format=torch.contiguous_format)
    else:
        copy = some.to(torch.float32, memory_format=torch.contiguous_format)
    return copy if len(sizes) == 3 else copy.view(sizes[0], sizes[1], -1)


@functools.lru_cache(maxsize=256)
def _strided_view(
    shape: tuple[int, ...], strides: tuple[int, ...], channels: int, batch: int, most: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Sizes, strides and the offset of a view of some elements: examples first, then units, then positions."""
    others = len(shape) - 2
    each = 1 if not others else max(2, round(9 ** (1 / others)))
    units = max(1, most // each**others)
    index = [
        strided(size, ROWS if axis == batch else units if axis == channels else each)
        for axis, size in enumerate(shape)
    ]
    order = [batch, channels, *(axis for axis in range(len(shape)) if axis not in (batch, channels))]
    sizes = tuple(len(range(shape[axis])[index[axis]]) for axis in order)
    steps = tuple(index[axis].step * strides[axis] for axis in order)
    return sizes, steps, sum(one.start * stride for one, stride in zip(index, strides, strict=True))


def axes_of(module: nn.Module, dims: int) -> tuple[int, int]:
    """The axes of the examples and of the units in what a module returns.

    Example:
        >>> axes_of(nn.Conv2d(1, 1, 1), 4), axes_of(nn.Linear(1, 1), 3), axes_of(nn.LSTM(1, 1), 3)
        ((0, 1), (0, 2), (1, 2))
    """
    if isinstance(module, nn.RNNBase):
        return (0 if module.batch_first or dims < 3 else 1), dims - 1
    first = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.PReLU)
    return 0, 1 if isinstance(module, first) else dims - 1
