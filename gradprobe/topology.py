"""Which module outputs can be supervised, found while the network makes one ordinary forward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.history import Point
from gradprobe.hooks import Attached, Hook
from gradprobe.layers import first_tensor, main_tensor, named_layers, named_modules, unwrap
from gradprobe.snapshot import preserved

_NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_NOT_ELEMENTWISE = ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")


@dataclass(frozen=True)
class Call:
    """One call of one module: what went in and came out, first tensors only."""

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None


@dataclass(frozen=True)
class Topology:
    """What one forward pass told about the network.

    Attributes:
        order: Layer names in the order in which they first finished; one that was never called stands
            behind the layer before it in ``named_modules()``.
        points: The supervision points in forward order.
        unserved: Why a layer has no point, by name.
        output_shape: Shape of the network's first output tensor, or None.
        batch_size: First size of the network's first input tensor, or None.
    """

    order: tuple[str, ...]
    points: tuple[Point, ...]
    unserved: dict[str, str]
    output_shape: tuple[int, ...] | None
    batch_size: int | None


class Survey:
    """Notes one forward pass of a network by hooks that come off when its root returns.

    Tensors are held until then, so that two of them never share an identity.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[Call] = []
        self.topology: Topology | None = None
        self._hooks = Attached()

    def attach(self) -> None:
        """Start to note calls."""
        for name, module in named_modules(self.model):
            hook = Hook(partial(self._note, name))
            self._hooks.add(module.register_forward_hook(hook, with_kwargs=True))

    def finish(self) -> Topology:
        """Take the hooks off and draw the conclusions; the tensors are let go."""
        self._hooks.remove()
        if self.topology is None:
            self.topology = _conclude(self.model, self.calls)
            self.calls = []
        return self.topology

    def detach(self) -> None:
        """Take the hooks off, whatever was noted."""
        self._hooks.remove()

    def _note(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        made = main_tensor(output) if module is self.model else first_tensor(output)
        self.calls.append(Call(name, module, first_tensor([args, kwargs]), made))
        if module is self.model:
            self.finish()


def points(model: nn.Module, inputs: Any) -> tuple[Point, ...]:
    """The supervision points of a model: the module outputs that can feed a branch, in forward order.

    Runs one forward pass on the inputs and leaves the model as it was.

    Args:
        model: Any module.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> [(point.name, point.shape, point.layers) for point in points(net, torch.ones(2, 1, 4, 4))]
        [('2', (2, 4, 2, 2), ('0', '1'))]
    """
    return survey(model, inputs).points


def survey(model: nn.Module, inputs: Any) -> Topology:
    """Run one forward pass on the inputs and say what it told; the model is left as it was."""
    args, kwargs = as_arguments(inputs)
    noted = Survey(unwrap(model))
    with preserved(model), torch.enable_grad():
        noted.attach()
        try:
            model(*args, **kwargs)
            return noted.finish()
        finally:
            noted.detach()


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What to call a model with: a dict goes in as keywords, a tuple as positionals, the rest as one."""
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _conclude(model: nn.Module, calls: list[Call]) -> Topology:
    order = _order(list(named_layers(model)), calls)
    found, unserved = _points(order, calls)
    root = next((call for call in reversed(calls) if call.module is model), None)
    output = root.output if root else None
    entered = root.input if root else None
    return Topology(
        order,
        found,
        unserved,
        None if output is None else tuple(output.shape),
        int(entered.shape[0]) if entered is not None and entered.dim() else None,
    )


def _order(names: list[str], calls: list[Call]) -> tuple[str, ...]:
    known = set(names)
    order = list(dict.fromkeys(call.name for call in calls if call.name in known))
    called = set(order)
    for position, name in enumerate(names):
        if name not in called:
            order.insert(order.index(names[position - 1]) + 1 if position else 0, name)
    return tuple(order)


def _points(order: tuple[str, ...], calls: list[Call]) -> tuple[tuple[Point, ...], dict[str, str]]:
    """The simple rule: a layer's own output, extended over the normalisation and activation behind it."""
    depth = {name: position for position, name in enumerate(order)}
    times = Counter(call.name for call in calls)
    last = next((name for name in reversed(order) if times[name]), None)
    result = calls[-1].output if calls else None
    leaves = [call for call in calls if next(call.module.children(), None) is None]
    found: list[Point] = []
    unserved: dict[str, str] = {}
    for name in order:
        if any(name in point.layers for point in found):
            continue
        call = next((call for call in calls if call.name == name), None)
        reason = _why_not(call, times[name])
        if reason is None and call is not None:
            chain = _extended(call, leaves)
            end = chain[-1]
            if name == last or end.output is result:
                reason = "it makes the network's output"
            elif end.output is not None:
                served = tuple(link.name for link in chain if link.name in depth)
                found.append(Point(end.name, tuple(end.output.shape), depth[served[-1]], served))
        if reason is not None:
            unserved[name] = reason
    return tuple(found), unserved


def _why_not(call: Call | None, times: int) -> str | None:
    if call is None:
        return "never called as a module"
    if call.output is None:
        return "its output holds no tensor"
    return f"reused: called {times} times in one forward" if times > 1 else None


def _extended(call: Call, leaves: list[Call]) -> list[Call]:
    chain = [call]
    start = next((index for index, leaf in enumerate(leaves) if leaf is call), len(leaves))
    for following in leaves[start + 1 :]:
        if following.input is not chain[-1].output or not _elementwise(following.module):
            break
        chain.append(following)
    return chain


def _elementwise(module: nn.Module) -> bool:
    kind = type(module)
    activation = kind.__module__ == "torch.nn.modules.activation" and kind.__name__ not in _NOT_ELEMENTWISE
    return activation or isinstance(module, _NORMALISATIONS)
