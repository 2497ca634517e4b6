"""The running state of a loss function: counts, means, memory banks. Each branch has its own.

Called for a branch as well, such a function would mix what it knows of the main output with what it sees of the
branch, and the main loss would not be the one without branches any more. What changes is found by looking at what
the function keeps before and after its call for the main output. For a branch's call the values of that branch are
put in, and afterwards those of the main output are put back: the same objects, so that nothing else notices.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.network.losses import MISSING, Place, places
from gradprobe.network.tensors import tensors

Slot = tuple[int, Any]  # the index of a place, and a name in it
# types whose values can change in place
_ARRAYS = (Tensor, np.ndarray, torch.Generator, np.random.Generator, random.Random)
_CHANGING = (*_ARRAYS, dict, list, tuple, deque, set)
_LARGE = 1 << 24  # bytes of an array up to which a change in place is looked for


class RunningState:
    """What a loss function keeps from one call to the next, once for the main output and once for each branch.

    Args:
        function: The loss function. It is not copied.

    Example:
        >>> class Counting:
        ...     calls = 0
        ...
        ...     def __call__(self, output, target):
        ...         self.calls += 1
        ...         return output.mean() + self.calls
        >>> loss_fn = Counting()
        >>> state = RunningState(loss_fn)
        >>> for step in range(3):
        ...     with state.of_main():
        ...         _ = loss_fn(torch.ones(2), None)
        ...     with state.of_branch(0):
        ...         branch = loss_fn(torch.ones(2), None)
        >>> loss_fn.calls, branch.item()
        (3, 4.0)
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._places: list[Place] | None = None
        self._first: dict[Slot, Any] = {}  # values before the first call, copied
        self._main: dict[Slot, Any] = {}  # values after the last call for the main output
        self._marks: dict[Slot, Any] = {}  # of these
        self._branches: dict[int, dict[Slot, Any]] = {}
        self._running: set[Slot] = set()

    def __getstate__(self) -> dict[str, Any]:
        # the places are those of one object: a copy of the function has others
        return {"_function": self._function}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["_function"])  # type: ignore[misc]

    @cached_property
    def parameters(self) -> frozenset[int]:
        """The ids of the trainable parameters that are the function's own: not those of a network that it uses."""
        if isinstance(self._function, nn.Module) and is_network(self._function):
            return frozenset()
        held = tensors(list(self._read().values()))
        return frozenset(id(tensor) for tensor in held if tensor.requires_grad and tensor.is_leaf)

    @property
    def runs(self) -> bool:
        """Whether the function changed anything in its calls until now."""
        return bool(self._running)

    @contextlib.contextmanager
    def of_main(self) -> Iterator[None]:
        """Call the function for the main output inside: what it changes is its running state."""
        if self._places is None:
            self._places = places(self._function, enter=lambda module: not is_network(module))
            self._first = _copies(self._read())
        before = self._read()
        marks = _marks(before)
        yield
        self._main = self._read()
        self._marks = _marks(self._main)
        for slot in _changed(marks, self._marks) - self._running:
            self._running.add(slot)
            if slot not in before:
                self._first[slot] = MISSING
            elif slot not in self._first or not _changes_in_place(before[slot]):
                self._first[slot] = before[slot]
        self._first = {slot: value for slot, value in self._first.items() if slot in self._running}

    @contextlib.contextmanager
    def of_branch(self, index: int) -> Iterator[None]:
        """Call the function for a branch inside, with the state of that branch."""
        own = self._branches.setdefault(index, {})
        memo: dict[int, Any] = {}
        for slot in self._running - own.keys():
            own[slot] = _copy(self._first.get(slot, MISSING), memo)
        self._write(own)
        try:
            yield
        finally:
            now = self._read()
            # a branch may have changed what the main output never did
            own.update((slot, now.get(slot, MISSING)) for slot in own.keys() | _changed(self._marks, _marks(now)))
            self._write({slot: self._main.get(slot, MISSING) for slot in own})
            self._running |= own.keys()

    def _read(self) -> dict[Slot, Any]:
        return {
            (index, name): value
            for index, place in enumerate(self._places or ())
            for name, value in place.read().items()
        }

    def _write(self, values: Mapping[Slot, Any]) -> None:
        for (index, name), value in values.items():
            if self._places is not None:
                self._places[index].write({name: value})


def is_network(module: nn.Module) -> bool:
    """Whether a module has trainable layers of torch: a loss only uses it, as a critic, or the network itself.

    Example:
        >>> is_network(nn.Sequential(nn.Linear(2, 1))), is_network(nn.CrossEntropyLoss())
        (True, False)
    """
    layers = (each for each in module.modules() if type(each).__module__.startswith("torch.nn."))
    return any(parameter.requires_grad for layer in layers for parameter in layer.parameters(recurse=False))


def _changed(before: Mapping[Slot, Any], after: Mapping[Slot, Any]) -> set[Slot]:
    slots = before.keys() | after.keys()
    return {slot for slot in slots if before.get(slot, MISSING) != after.get(slot, MISSING)}


def _marks(values: Mapping[Slot, Any]) -> dict[Slot, Any]:
    return {slot: _mark(value) for slot, value in values.items()}


def _mark(value: Any) -> Any:
    """What is another if a value, or one in a container, was replaced or changed in place."""
    if not isinstance(value, _CHANGING):
        return value if isinstance(value, (int, float, str)) else id(value)
    return id(value), _mark_of_contents(value)


def _mark_of_contents(value: Any) -> Any:
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.nbytes <= _LARGE and value.dtype != object else None
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, dict):
        return tuple((key, _mark(each)) for key, each in value.items())
    return frozenset(map(id, value)) if isinstance(value, set) else tuple(map(_mark, value))


def _changes_in_place(value: Any) -> bool:
    return isinstance(value, _CHANGING)


def _copies(values: Mapping[Slot, Any]) -> dict[Slot, Any]:
    """Copies of the values that can change in place; frozen parameters are taken to stay."""
    memo: dict[int, Any] = {}
    return {
        slot: _copy(value, memo)
        for slot, value in values.items()
        if _changes_in_place(value) and not isinstance(value, nn.Parameter)
    }


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """A value of one's own: tensors, arrays, generators and containers are copied, other objects are the same."""
    if id(value) in memo:
        return memo[id(value)][0]
    made = value
    if isinstance(value, Tensor):
        made = value.detach().clone().requires_grad_(value.requires_grad)
    elif isinstance(value, torch.Generator):
        made = torch.Generator(value.device)
        made.set_state(value.get_state())
    elif isinstance(value, (np.ndarray, np.random.Generator, random.Random)):
        made = copy.deepcopy(value)
    elif isinstance(value, dict):
        made = copy.copy(value)
        made.update((key, _copy(each, memo)) for key, each in value.items())
    elif isinstance(value, deque):
        made = deque((_copy(each, memo) for each in value), value.maxlen)
    elif type(value) in (list, tuple):
        made = type(value)(_copy(each, memo) for each in value)
    elif isinstance(value, set):
        made = set(value)
    memo[id(value)] = made, value  # the value too: its id must not be another's meanwhile
    return made
