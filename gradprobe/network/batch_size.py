"""How many samples a forward pass worked on: read off the output and the layers that know it, or unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradprobe.network.tensors import is_list_of_samples, main_tensor, tensors

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """The samples of a forward pass.

    Attributes:
        size: How many there are.
        axis: On which axis of the network's output they lie, or None where the output has no axes.
    """

    size: int
    axis: int | None


@dataclass
class BatchSizes:
    """What the calls of a forward pass show of the batch.

    A convolution, a recurrent layer or an attention knows on which axis of its input the samples are, and if there
    are several. A linear layer with a matrix for input shows its rows, which may be samples or parts of them.

    Attributes:
        certain: Sizes that such layers saw.
        rows: Numbers of rows that linear layers saw.
        one_sample: Whether a layer that knows was called on one sample, without an axis for samples.
        one_row: Whether a linear layer was called on a vector.

    Example:
        >>> import torch
        >>> sizes, x = BatchSizes(), torch.ones(10, 4, 3)  # (time, batch, features)
        >>> sizes.note(nn.LSTM(3, 5), [x])
        >>> sizes.batch([x], torch.ones(10, 4, 2))
        Batch(size=4, axis=1)
    """

    def __init__(self) -> None:
        self.certain: Counter[int] = Counter()
        self.rows: Counter[int] = Counter()
        self.one_sample = self.one_row = False

    def note(self, module: nn.Module, arguments: Sequence[Any]) -> None:
        """Note what a module is called with."""
        packed = next((value for value in arguments if isinstance(value, PackedSequence)), None)
        if packed is not None:
            self.certain[int(packed.batch_sizes[0])] += 1
            return
        first = next(tensors(list(arguments)), None)
        if first is None or first.is_nested:
            return
        known = _axis(module, first.dim())
        rows = first.dim() < 3 and isinstance(module, (nn.Linear, nn.BatchNorm1d))
        if known == _UNBATCHED:
            self.one_row |= rows
            self.one_sample |= not rows
        elif known is not None:
            (self.rows if rows else self.certain)[int(first.shape[known])] += 1

    def batch(self, arguments: Sequence[Any], output: Any) -> Batch | None:
        """The batch of a network's output, or None where it has none that is known.

        Args:
            arguments: What the network was called with.
            output: What it returned.
        """
        if not self.certain and (self.one_sample or (self.one_row and not self.rows)):
            return None
        main = _main_shape(output)
        direct = [tensor for tensor in _top(arguments) if isinstance(tensor, Tensor) and tensor.dim()]
        first_sizes = {int(tensor.size(0)) for tensor in direct}
        if not main:
            size = self._size_without_output(first_sizes)
            return None if size is None else Batch(size, None)
        if _is_graph(direct, main[0]):
            return None
        return self._batch_in(main, direct, first_sizes)

    def _batch_in(self, shape: Shape, inputs: Sequence[Tensor], first_sizes: set[int]) -> Batch | None:
        """The batch of an output of this shape."""
        for sizes in (self.certain, self.rows):
            axis = next((axis for axis, size in enumerate(shape) if size in sizes), None)
            if axis is not None and (axis == 0 or sizes is self.certain or shape[axis] in first_sizes):
                return Batch(shape[axis], axis)
        # (batch x time, classes): the rows of several samples one after the other
        leading = {int(size) for tensor in inputs for size in tensor.shape[:2]} if len(shape) == 2 else set()
        merged = next((size for size in self.certain if size in leading and shape[0] % size == 0), None)
        if merged is not None:
            return Batch(merged, 0)
        known = len(shape) > 1 or shape[0] in first_sizes
        return Batch(shape[0], 0) if known else None

    def _size_without_output(self, first_sizes: set[int]) -> int | None:
        """The batch size of a network that returns its loss, or something that holds no tensor."""
        agreed = [*first_sizes] if len(first_sizes) == 1 else []
        if agreed and (not self.certain or all(size % agreed[0] == 0 for size in self.certain)):
            return agreed[0]
        return next((size for sizes in (self.certain, self.rows) for size, _ in sizes.most_common(1)), None)


_UNBATCHED = -1


def _axis(module: nn.Module, dims: int) -> int | None:
    """The axis of the samples in a module's input of so many axes; `_UNBATCHED` for one sample, else None."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return {len(module.kernel_size) + 2: 0, len(module.kernel_size) + 1: _UNBATCHED}.get(dims)
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return {3: 0 if module.batch_first else 1, 2: _UNBATCHED}.get(dims)
    if isinstance(module, (nn.Linear, nn.modules.rnn.RNNCellBase)):
        return {2: 0, 1: _UNBATCHED}.get(dims)
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
        return 0 if dims > 2 or isinstance(module, nn.BatchNorm1d) else None
    return None


def _top(arguments: Iterable[Any]) -> Iterable[Any]:
    """The arguments of a call and the entries of mappings among them; those of lists have no axis for samples."""
    for value in arguments:
        if isinstance(value, Mapping):
            yield from _top(value.values())
        else:
            yield value


def _main_shape(output: Any) -> Shape | None:
    """Shape of the main tensor of an output; None where it has no axes, or is one of a list of samples."""
    if is_list_of_samples(output):
        return None
    main = main_tensor(output)
    return None if main is None or main.is_nested else tuple(map(int, main.shape))


def _is_graph(inputs: Iterable[Tensor], nodes: int) -> bool:
    """Whether the inputs are one graph with so many nodes: features of each, and its edges or their matrix."""
    inputs = list(inputs)
    features = [x for x in inputs if x.is_floating_point() and x.dim() > 1 and x.size(0) == nodes]
    edges = [x for x in inputs if not x.is_floating_point() and x.dim() == 2 and x.size(0) == 2 != nodes]
    matrices = [x for x in inputs if x.dim() == 2 and x.size(0) == x.size(1) == nodes]
    return bool(features and edges) or bool(matrices and len(features) > len(matrices))


@dataclass(frozen=True)
class OutputAxes:
    """Where the samples are in the outputs of layers, so that the batch of another pass can be read off them.

    Attributes:
        size: The batch size of the pass that was surveyed, or None.
        axes: For each layer that shows it, in forward order: how many axes its output has, and which is that of
            the samples, or None where there was no such axis.

    Example:
        >>> axes = OutputAxes(1, {"fc": (2, 0)})
        >>> axes.size_in({}), axes.size_in({"fc": (128, 10)})
        (1, 128)
    """

    size: int | None
    axes: Mapping[str, tuple[int, int | None]]

    @classmethod
    def of(cls, size: int | None, shapes: Iterable[tuple[str, Shape]]) -> OutputAxes:
        """From the shapes of the layers' outputs, in forward order."""
        axes = {
            name: (len(shape), shape.index(size) if size is not None else None)
            for name, shape in shapes
            if size is None or size in shape
        }
        return cls(size, axes)

    def size_in(self, arrived: Mapping[str, Shape]) -> int | None:
        """The batch size of the pass whose gradients arrived.

        Args:
            arrived: Shape of the gradient at each layer's output.
        """
        for name, (dims, axis) in reversed([*self.axes.items()]):
            shape = arrived.get(name, ())
            if axis is not None and len(shape) == dims:
                return shape[axis]
            if axis is None and len(shape) == dims + 1:  # one sample was surveyed, several are trained on
                return shape[0]
        return self.size
