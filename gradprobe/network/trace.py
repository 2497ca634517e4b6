"""What was seen of one forward pass: the calls of modules with their tensors, and parameters of no module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import Node

from gradprobe.network.tensors import base_of_full_view
from gradprobe.record.points import Point

Shape = tuple[int, ...]
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.RNNBase)


class Seen(NamedTuple):
    """A tensor that a module took or returned.

    Attributes:
        node: The graph node that made it, or None.
        shape: Its shape; None for a nested tensor, which has none.
        channels: The axis of its channels, where the layers before it show that.
        batch: The axis of its samples, where the layers before it show that.
        suits_branch: Whether a branch can take it: floating point, with a gradient, a batch and channels.
    """

    node: Node | None
    shape: Shape | None
    channels: int | None
    batch: int | None
    suits_branch: bool


class Axes:
    """Which axes are those of channels and samples: for each shape as in the last layer that returned it.

    Attributes:
        time_first: Whether a layer was seen whose samples are on axis 1.

    Example:
        >>> import torch
        >>> axes, x = Axes(), torch.ones(7, 2, 4, requires_grad=True)
        >>> axes.note(nn.GRU(3, 4), x)  # (time, batch, channels)
        >>> seen = axes.seen(x * 2)
        >>> seen.channels, seen.batch
        (2, 1)
    """

    def __init__(self) -> None:
        self._channels: dict[Shape, int] = {}
        self._batch: dict[Shape, int] = {}
        self.time_first = False

    def note(self, module: nn.Module, returned: Tensor) -> None:
        """Note what a module returned."""
        shape, rank = tuple(returned.shape), returned.dim()
        if rank > 2 and isinstance(module, _CHANNELS_FIRST):
            self._channels[shape] = 1
        elif rank > 2 and isinstance(module, _CHANNELS_LAST):
            self._channels[shape] = rank - 1
        if rank == 3 and isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            self._batch[shape] = 0 if module.batch_first else 1
            self.time_first |= not module.batch_first

    def seen(self, tensor: Tensor) -> Seen:
        """A tensor with the axes that are known of its shape."""
        node = node_of(tensor)
        if tensor.is_nested:
            return Seen(node, None, None, None, False)
        shape = tuple(tensor.shape)
        suits = (
            tensor.grad_fn is not None and tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() > 0
        )
        return Seen(node, shape, self._channels.get(shape), self._batch.get(shape), suits)


Refusal = Callable[[Seen], str | None]


@dataclass(frozen=True)
class Call:
    """One call of one module, or what it was called with; a tensor is known by the graph node that made it.

    Attributes:
        name: Canonical name of the module, or that of its input (`gradprobe.record.points.input_of`).
        module: The module.
        inputs: Nodes of the tensors that went in; none for a call that stands for them itself.
        tensors: The tensors that came out; where it stands for its inputs, those that went in.
        grad_enabled: Whether autograd recorded the call.
        taken: Which of the tensors a branch would get.
        refusal: Why no branch can be built for it, or None.
    """

    name: str
    module: nn.Module
    inputs: tuple[Node, ...]
    tensors: tuple[Seen, ...]
    grad_enabled: bool
    taken: int = 0
    refusal: str | None = None

    def choose(self, refusal: Refusal) -> Call:
        """The same call, of whose tensors a branch gets the first that it can be built for."""
        reasons = [refusal(seen) if seen.suits_branch else "" for seen in self.tensors]
        taken = next((index for index, reason in enumerate(reasons) if reason is None), 0)
        return replace(self, taken=taken, refusal=reasons[taken] if reasons else "")

    @property
    def seen(self) -> Seen | None:
        """The tensor that a branch would get."""
        return self.tensors[self.taken] if self.tensors else None

    @property
    def shape(self) -> Shape | None:
        """Its shape."""
        return None if self.seen is None else self.seen.shape

    @cached_property
    def outputs(self) -> tuple[Node, ...]:
        """Nodes of the tensors that came out, each once; first that of the one that a branch would get."""
        ordered = (*self.tensors[self.taken : self.taken + 1], *self.tensors)
        return tuple(dict.fromkeys(seen.node for seen in ordered if seen.node is not None))

    @property
    def suits_branch(self) -> bool:
        """Whether a branch can be built."""
        return self.seen is not None and self.seen.suits_branch and self.refusal is None

    def point(self, depth: int, layers: tuple[str, ...]) -> Point:
        """The point for some layers."""
        seen = self.seen
        assert seen is not None
        assert seen.shape is not None
        return Point(self.name, seen.shape, depth, layers, seen.channels, self.taken, seen.batch)

    @property
    def returns_input(self) -> bool:
        """Whether the module returned what it got."""
        return bool(self.outputs) and self.outputs[0] in self.inputs


@dataclass(frozen=True)
class Trace:
    """What was seen of one forward pass.

    Attributes:
        order: Names of the layers in depth order.
        calls: The calls of modules below the network itself in the order in which they ended, and between them
            those that stand for what a module was called with.
        entries: For each node at which inputs enter the graph: which inputs.
        foreign: Nodes of inputs that came with a graph of their own, which is not the network's.
        results: Nodes of the tensors that the network returned; those of scalars only if there is nothing else.
        main_results: Those of the main output, which the branches have to predict.
        predicts: Whether there is a main output of a shape that is known.
    """

    order: tuple[str, ...]
    calls: Sequence[Call]
    entries: Mapping[Node, set[int]]
    foreign: Set[Node]
    results: Sequence[Node]
    main_results: Sequence[Node]
    predicts: bool = True


def node_of(tensor: Tensor) -> Node | None:
    """The graph node that made a tensor, or None."""
    return base_of_full_view(tensor).grad_fn


def nodes_of(several: Iterable[Tensor]) -> tuple[Node, ...]:
    """The graph nodes that made some tensors, each once."""
    return tuple(dict.fromkeys(node for node in map(node_of, several) if node is not None))


class LooseParameter(NamedTuple):
    """A parameter that takes part in the forward pass and belongs to no registered module."""

    id: int
    shape: tuple[int, ...]


def loose_parameters(model: nn.Module, results: Iterable[Node], inputs: Set[Node]) -> tuple[LooseParameter, ...]:
    """The parameters in a graph that are not among the model's: those of layers in a plain list, say.

    Args:
        model: The network.
        results: The nodes that made its output.
        inputs: The nodes that made its inputs; what is before them is not the network's.

    Example:
        >>> import torch
        >>> hidden = [nn.Linear(3, 3, bias=False)]
        >>> net = nn.Linear(2, 3)
        >>> result = hidden[0](net(torch.ones(1, 2)))
        >>> [parameter.shape for parameter in loose_parameters(net, [result.grad_fn], set())]
        [(3, 3)]
    """
    if any(type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for module in model.modules()):
        return ()  # its gathered parameters stand in for the model's
    own = {id(parameter) for parameter in model.parameters()}
    seen, ahead, found = set(inputs), list(results), dict[int, LooseParameter]()
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions if following is not None]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and id(leaf) not in own:
            found[id(leaf)] = LooseParameter(id(leaf), tuple(map(int, leaf.shape)))
    return tuple(found.values())[::-1]
