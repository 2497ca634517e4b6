"""Put a model and the random number generators back exactly as they were."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gradprobe.network.losses import MISSING, Place, places

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@contextlib.contextmanager
def preserved(model: nn.Module, function: Any = None) -> Iterator[None]:
    """Restore, whatever happens inside, the model, a loss function and every random number generator.

    The model's parameters, buffers, gradients, ``requires_grad``, every module's own train flag and plain
    attributes (with the tensors, containers and generators in them) come back bit for bit, and in the same
    objects. Values are copied: meanwhile there is a second copy of the parameters in memory. So does what a loss
    function keeps from one call to the next, wherever `gradprobe.network.losses.places` finds it.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> before = net.weight.clone()
        >>> with preserved(net):
        ...     _ = net.train(False), torch.nn.init.zeros_(net.weight)
        >>> net.training, torch.equal(net.weight, before)
        (True, True)
    """
    states: list[_State] = [_RandomState()]
    seen: set[int] = set()
    for module in model.modules():
        states.append(_ModuleState(module))
        for value in vars(module).values():
            states += _states_in(value, seen)
    for tensor in (*model.parameters(), *model.buffers()):  # those of a ScriptModule are not attributes
        states += _states_in(tensor, seen)
    known = set(map(id, model.modules()))
    for place in places(function, enter=lambda module: id(module) not in known):
        states.append(_PlaceState(place))
        for value in place.read().values():
            states += _states_in(value, seen)
    try:
        yield
    finally:
        for state in reversed(states):
            state.restore()


class _State(Protocol):
    def restore(self) -> None: ...


def _states_in(value: Any, seen: set[int]) -> Iterator[_State]:
    """The states of what can change inside a value while it stays the same object: tensors, containers, ..."""
    if id(value) in seen:
        return
    if isinstance(value, Tensor):
        seen.add(id(value))
        if not value.is_inference():
            yield _TensorState(value)
    elif isinstance(value, torch.Generator):
        seen.add(id(value))
        yield _GeneratorState(value)
    elif isinstance(value, (random.Random, np.random.Generator)):
        seen.add(id(value))
        yield _DrawsState(value)
    elif isinstance(value, np.ndarray):
        seen.add(id(value))
        yield _ArrayState(value)
    elif isinstance(value, (dict, list, set, deque)) or type(value) is tuple:
        seen.add(id(value))
        for item in list(value.values() if isinstance(value, dict) else value):
            yield from _states_in(item, seen)
        if type(value) in (
            dict,
            OrderedDict,
            list,
            set,
            deque,
        ):  # after its items: the states are restored in reverse
            yield _ContainerState(value)


class _ModuleState:
    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(vars(module))
        # train() must not be used to restore: it would unfreeze a frozen BatchNorm inside (docs/facts.md, 11)
        self.registries = {name: dict(getattr(module, name)) for name in _REGISTRIES}

    def restore(self) -> None:
        now = vars(self.module)
        for name in set(now) - set(self.attributes):
            del now[name]
        now.update({k: v for k, v in self.attributes.items() if k not in now or now[k] is not v})
        for name, entries in self.registries.items():
            registry = getattr(self.module, name)
            if list(map(id, registry.values())) != list(map(id, entries.values())):
                registry.clear()
                registry.update(entries)


class _ContainerState:
    def __init__(self, container: Any) -> None:
        self.container = container
        self.items = container.copy()

    def restore(self) -> None:
        if _identities(self.container) == _identities(self.items):
            return  # a set that is filled again may have another order, and so another pickle
        self.container.clear()
        extend = self.container.extend if isinstance(self.container, (list, deque)) else self.container.update
        extend(self.items)


class _PlaceState:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.values = place.read()

    def restore(self) -> None:
        now = self.place.read()
        changed = {name: value for name, value in self.values.items() if now.get(name, MISSING) is not value}
        self.place.write(changed | dict.fromkeys(now.keys() - self.values.keys(), MISSING))


class _ArrayState:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.values = array.copy()

    def restore(self) -> None:
        if self.array.flags.writeable:
            self.array[...] = self.values


class _DrawsState:
    """A generator of random numbers that is Python's or NumPy's, but not the global one."""

    def __init__(self, generator: random.Random | np.random.Generator) -> None:
        self.generator = generator
        python = isinstance(generator, random.Random)
        self.state: Any = generator.getstate() if python else generator.bit_generator.state  # type: ignore[union-attr]

    def restore(self) -> None:
        if isinstance(self.generator, random.Random):
            self.generator.setstate(self.state)
        else:
            self.generator.bit_generator.state = self.state


def _identities(container: Any) -> Any:
    """The identities of what is in a container."""
    if isinstance(container, dict):
        return [(id(key), id(value)) for key, value in container.items()]
    identities = list(map(id, container))
    return set(identities) if isinstance(container, set) else identities


class _GeneratorState:
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.state = generator.get_state()

    def restore(self) -> None:
        self.generator.set_state(self.state)


class _TensorState:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.value = tensor.detach().clone()
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.grad_value = None if self.grad is None else self.grad.detach().clone()

    def restore(self) -> None:
        with torch.no_grad():
            self.tensor.detach().copy_(self.value)
            if self.grad is not None and self.grad_value is not None:
                self.grad.detach().copy_(self.grad_value)
        if self.tensor.is_leaf:
            if self.tensor.requires_grad != self.requires_grad:
                self.tensor.requires_grad_(self.requires_grad)
            self.tensor.grad = self.grad


class _RandomState:
    """Python's, NumPy's and torch's global generators, and those of the accelerators that are in use."""

    def __init__(self) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self.states = (random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)  # noqa: NPY002

    def restore(self) -> None:
        python, numpy, cpu, cuda = self.states
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 (the user's code may draw from it)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the user's code may draw from it)
    torch.manual_seed(seed)
