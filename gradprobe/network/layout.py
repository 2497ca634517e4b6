"""Layouts: which axes of a recorded shape are batch and channels, and conversion to ``(N, C, *S)`` and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Shape = tuple[int, ...]


class ShapeError(ValueError):
    """No branch fits; ``why`` has the reason alone."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Layout:
    """A shape, and which of its axes are the batch and the channels.

    Args:
        shape: As recorded.
        batch: Axis of the batch.
        channels: Axis of the channels; None if there is none: one number (or one map) for each sample.

    Example:
        >>> import torch
        >>> layout = Layout((2, 4, 5, 3), channels=3)
        >>> layout.features, layout.size, layout.to_channels_first(torch.zeros(2, 4, 5, 3)).shape
        (3, (4, 5), torch.Size([2, 3, 4, 5]))
        >>> layout.from_channels_first(torch.zeros(2, 7, 8, 9)).shape
        torch.Size([2, 8, 9, 7])
    """

    shape: Shape
    batch: int = 0
    channels: int | None = 1

    @property
    def features(self) -> int:
        """The number of channels."""
        return 1 if self.channels is None else self.shape[self.channels]

    @property
    def size(self) -> Shape:
        """The recorded lengths of the remaining axes, in their order."""
        return self.size_of(self.shape)

    @property
    def is_sequence(self) -> bool:
        """Whether these are tokens: one axis beside batch and channels, and the channels last."""
        return len(self.shape) == 3 and self.channels == 2

    def size_of(self, shape: Sequence[int]) -> Shape:
        """The lengths in another shape of the axes that are neither batch nor channels."""
        return tuple(length for axis, length in enumerate(shape) if axis not in (self.batch, self.channels))

    def to_channels_first(self, tensor: Tensor) -> Tensor:
        """A tensor of this layout as ``(N, C, *S)``."""
        if self.channels is None:
            return tensor.movedim(self.batch, 0).unsqueeze(1)
        return tensor.movedim((self.batch, self.channels), (0, 1))

    def from_channels_first(self, tensor: Tensor) -> Tensor:
        """A tensor ``(N, C, *S)`` in this layout."""
        if self.channels is None:
            return tensor.squeeze(1).movedim(0, self.batch)
        if (self.batch, self.channels) == (0, 1):
            return tensor  # not a view: fully_shard warns about views
        return tensor.movedim((0, 1), (self.batch, self.channels))


def layouts(
    kind: str,
    point_shape: Shape,
    output_shape: Shape,
    channels: int | None = None,
    output_channels: int | None = None,
    batch: int | None = None,
) -> tuple[Layout, Layout]:
    """The layouts of a point and of the network's output.

    The batch is axis 0, unless only axis 1 of a three-dimensional shape has the length of the other's batch: then
    it is sequence-first, as in recurrent networks and `torch.nn.CTCLoss`. Channels whose axis is not known are on
    axis 1, in three dimensions on the last. Where both shapes have three dimensions, a length in common decides:
    ``(N, 8, 50)`` to ``(N, 3, 50)`` is channels-first. ``(N, H, W)`` after maps ``(N, C, h, w)`` that are the same
    whole number of times smaller or larger on every axis is one map each, without channels.

    Args:
        kind: The branch's name, for the error.
        point_shape: Recorded shape of the point.
        output_shape: Recorded shape of the output.
        channels: Axis of the point's channels, if known.
        output_channels: Axis of the output's channels, if known.
        batch: Axis of the point's samples, if known.

    Raises:
        ValueError: If there is no batch in common, no such axis, or the point has no channels.

    Example:
        >>> [layout.channels for layout in layouts("auto", (2, 8, 50), (2, 3, 50))]
        [1, 1]
        >>> [layout.batch for layout in layouts("auto", (50, 2, 8), (2, 3))]
        [1, 0]
    """
    why = _why_no_axis(point_shape, channels) or _why_no_axis(output_shape, output_channels)
    if len(point_shape) < 2 or not output_shape or why:
        raise ShapeError(no_branch(kind, point_shape, output_shape, why), why or "too few axes")
    channels = channels if channels is None else channels % len(point_shape)
    output_channels = output_channels if output_channels is None else output_channels % len(output_shape)
    batch, output_batch = _batches(kind, point_shape, output_shape, (channels, output_channels), batch)
    if channels is None:
        channels = _point_channels(point_shape, output_shape, output_channels, 1 in (batch, output_batch))
    point = Layout(point_shape, batch, channels)
    if output_channels is None:
        output_channels = _output_channels(point, output_shape)
        output_channels = 2 if output_channels == output_batch else output_channels
    return point, Layout(output_shape, output_batch, output_channels)


def no_branch(kind: str, point_shape: Shape, output_shape: Shape, why: str = "") -> str:
    """The message for shapes that do not suit a branch: both shapes, the reason, and the way out.

    Example:
        >>> no_branch("cnds", (2, 3), (2, 5), "it takes a map to a vector")
        "no 'cnds' branch from a point of shape (2, 3) to ...: pass branch=lambda point_shape, output_shape: ..."
    """
    return (
        f"no {kind!r} branch from a point of shape {point_shape} to an output of shape {output_shape}"
        f"{f' ({why})' if why else ''}: pass branch=lambda point_shape, output_shape: <your nn.Module>, "
        "on the command line --branch module:callable"
    )


def grid(cells: int, size: Shape) -> Shape | None:
    """The grid of this many cells with the proportions of a map, or None if there is no such grid.

    Example:
        >>> grid(196, (224, 224)), grid(8, (16, 32)), grid(197, (224, 224))
        ((14, 14), (2, 4), None)
    """
    scale = (cells / math.prod(size)) ** (1 / len(size))
    lengths = tuple(max(1, round(length * scale)) for length in size)
    return lengths if math.prod(lengths) == cells else None


def class_tokens(point: Layout, output: Layout) -> int | None:
    """How many tokens (0 or 1) come before a grid of tokens with the output's proportions; None without a grid.

    Example:
        >>> class_tokens(*layouts("auto", (2, 197, 8), (2, 3, 224, 224)))
        1
    """
    if len(point.size) != 1 or len(output.size) not in (2, 3):
        return None
    return next((leading for leading in (0, 1) if grid(point.size[0] - leading, output.size)), None)


def _why_no_axis(shape: Shape, axis: int | None) -> str:
    fits = axis is None or 1 <= axis < len(shape) or -len(shape) < axis < 0
    return "" if fits else f"axis {axis} of {shape} cannot be the channels"


def why_no_branch(
    point_shape: Shape,
    output_shape: Any,
    channels: int | None = None,
    output_channels: int | None = None,
    batch: int | None = None,
) -> str | None:
    """Why no branch can be built from a point to an output, or None: `layouts` for each output of a list.

    Args:
        point_shape: Recorded shape of the point.
        output_shape: Recorded shape of the output, or one for each where it is a list.
        channels: Axis of the point's channels, if known.
        output_channels: Axis of the output's channels, if known.
        batch: Axis of the point's samples, if known.

    Example:
        >>> why_no_branch((2, 8, 5, 5), (2, 10)), why_no_branch((18, 4, 6), (2, 10))
        (None, '18 against 2 along the batch')
    """
    shapes = output_shape if output_shape and isinstance(output_shape[0], tuple) else (output_shape,)
    reasons = (_why_none(point_shape, shape, channels, output_channels, batch) for shape in shapes)
    return next(filter(None, reasons), None)


def _why_none(point: Shape, output: Shape, *axes: int | None) -> str | None:
    try:
        layouts("auto", point, output, *axes)
    except ShapeError as error:
        return error.why
    return None


def _batches(
    kind: str, point: Shape, output: Shape, channels: tuple[int | None, int | None], batch: int | None
) -> tuple[int, int]:
    axes = (0, 1) if len(point) == 3 and channels[0] != 1 else (0,)
    axes = axes if batch is None or batch == channels[0] else (batch,)
    output_axes = (0, 1) if len(output) == 3 and channels[1] != 1 else (0,)
    output_axes = output_axes[::-1] if axes == (1,) and len(point) == 3 else output_axes  # sequence-first as well
    for output_axis in output_axes:
        for axis in axes:
            if point[axis] == output[output_axis]:
                return axis, output_axis
    why = f"{point[batch or 0]} against {output[0]} along the batch"
    raise ShapeError(no_branch(kind, point, output, why), why)


def _point_channels(point: Shape, output: Shape, output_channels: int | None, sequence_first: bool) -> int:
    if len(point) != 3:
        return 1
    if sequence_first or len(output) != 3:
        return 2
    if output_channels is not None:
        return 1 if output_channels == 1 and point[1] != output[2] else 2
    return 1 if point[2] == output[2] and point[1] not in (point[2], output[1]) else 2


def _output_channels(point: Layout, output: Shape) -> int | None:
    if len(output) == 1 or _one_map(point.size, output[1:]):
        return None
    if len(output) != 3:
        return 1
    length = point.size[0] if len(point.size) == 1 else None
    return 1 if output[2] == length != output[1] else 2


def _one_map(size: Shape, lengths: Shape) -> bool:
    """Whether two sizes differ by the same whole factor on every axis."""
    if len(size) < 2 or len(size) != len(lengths):
        return False
    larger = {divmod(length, edge) for length, edge in zip(lengths, size, strict=True)}
    smaller = {divmod(edge, length) for length, edge in zip(lengths, size, strict=True)}
    return any(len(scales) == 1 and next(iter(scales))[1] == 0 for scales in (larger, smaller))
