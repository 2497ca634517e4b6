"""Loss functions: their type, their name in a record, the checks of them, and where they keep a state."""

from __future__ import annotations

import dis
import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

LossFunction = Callable[[Any, Any], Tensor]
MISSING = object()  # in a `Place`: there is nothing of this name
_OF_MODULE = frozenset(vars(nn.Module()))  # what torch itself keeps on a module
_LOOKS_UP = (
    "LOAD_GLOBAL",
    "LOAD_NAME",
    "LOAD_DEREF",
    "LOAD_CLASSDEREF",
    "LOAD_FROM_DICT_OR_DEREF",
    "STORE_GLOBAL",
)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "torchvision", "numpy"} - {"__main__"}


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
        kind = type(loss).__name__
        raise TypeError(f"expected the loss to be a scalar tensor, got {kind}{_scalar_in(loss)}")
    if loss.numel() != 1:
        raise TypeError(
            f"expected the loss to be a scalar, got a tensor of shape {tuple(loss.shape)}: take its .mean()"
        )
    if not loss.requires_grad:
        off = "" if torch.is_grad_enabled() else "; gradients are switched off: torch.set_grad_enabled(True)"
        raise ValueError(f"the loss does not depend on any trainable parameter: it is detached or a constant{off}")


def _scalar_in(loss: Any) -> str:
    """How the scalar is got out of what a loss function returned, if that is seen."""
    if loss is None:
        return ": the function ends without a return"
    if isinstance(loss, Mapping) and loss:
        return f": return one of its entries, such as {'loss' if 'loss' in loss else next(iter(loss))!r}"
    if isinstance(loss, (tuple, list)):
        return ": return the loss alone, as in lambda output, target: loss(output, target)[0]"
    return ": leave .item() and float() out" if isinstance(loss, float) else ""


class Place(Protocol):
    """Where a function keeps values from one call to the next: attributes, buffers, a closure, named globals."""

    def read(self) -> dict[Any, Any]:
        """The values by name."""
        ...

    def write(self, values: Mapping[Any, Any]) -> None:
        """Put values in; `MISSING` takes one out."""
        ...


class _Names:
    """The entries of a dict, or those of them that have certain names."""

    def __init__(self, entries: dict[Any, Any], names: frozenset[str] | None = None) -> None:
        self.entries, self.names = entries, names

    def read(self) -> dict[Any, Any]:
        if self.names is None:
            return dict(self.entries)
        return {name: self.entries[name] for name in self.names if name in self.entries}

    def write(self, values: Mapping[Any, Any]) -> None:
        for name, value in values.items():
            if value is MISSING:
                self.entries.pop(name, None)
            else:
                self.entries[name] = value


class _ModuleNames(_Names):
    """The attributes of a module that are not torch's own."""

    def read(self) -> dict[Any, Any]:
        return {name: value for name, value in self.entries.items() if name not in _OF_MODULE}


class _Cell:
    """A variable of an enclosing function."""

    def __init__(self, cell: CellType) -> None:
        self.cell = cell

    def read(self) -> dict[Any, Any]:
        try:
            return {"": self.cell.cell_contents}
        except ValueError:  # not assigned yet
            return {}

    def write(self, values: Mapping[Any, Any]) -> None:
        for value in values.values():
            if value is MISSING:
                del self.cell.cell_contents
            else:
                self.cell.cell_contents = value


class _Defaults:
    """The default values of a function: a list among them is the same in every call."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function

    def read(self) -> dict[Any, Any]:
        return {"": self.function.__defaults__}

    def write(self, values: Mapping[Any, Any]) -> None:
        for value in values.values():
            self.function.__defaults__ = value


class _Arguments:
    """The positional arguments of a `functools.partial`."""

    def __init__(self, function: partial[Any]) -> None:
        self.function = function

    def read(self) -> dict[Any, Any]:
        return {"": self.function.args}

    def write(self, values: Mapping[Any, Any]) -> None:
        function = self.function
        for value in values.values():
            state = (function.func, value, function.keywords, vars(function))
            function.__setstate__(state)  # type: ignore[attr-defined]


def places(function: Any, enter: Callable[[nn.Module], bool] = lambda module: True) -> list[Place]:
    """Where a loss function may keep values from one call to the next.

    In a module: attributes, buffers and parameters; in another object its attributes; of a function its closure,
    its default values and the globals that it names; of a method its object; of a `functools.partial` its
    arguments; and whatever is reached from there. Objects of the standard library, torch and numpy are left out.

    Args:
        function: A function, a method, a `functools.partial`, a module or another callable object.
        enter: Whether to look into a module that the function only refers to.

    Example:
        >>> seen = []
        >>> mean = [0.0]
        >>> def loss_fn(output, target):
        ...     seen.append(target)  # a log: it is not read here
        ...     mean[0] = 0.9 * mean[0] + 0.1 * output.mean().item()
        ...     return output.mean() - mean[0]
        >>> [place.read() for place in places(loss_fn)][-1]
        {'mean': [0.0]}
    """
    found: list[Place] = []
    visited: set[int] = set()
    waiting = [function]
    while waiting:
        value = waiting.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, nn.Module) and value is not _owner(function) and not enter(value):
            continue
        here = list(_places_of(value))
        found += here
        waiting += [each for place in here for each in place.read().values()]
        waiting += _parts_of(value)
    return found


def _owner(function: Any) -> Any:
    return function.__self__ if isinstance(function, MethodType) else function


def _places_of(value: Any) -> Iterator[Place]:
    if isinstance(value, nn.Module):
        if not _is_of_library(type(value)):
            yield _ModuleNames(vars(value))
        yield _Names(value._buffers)
        yield _Names(value._parameters)
    elif isinstance(value, partial):
        yield _Arguments(value)
        yield _Names(value.keywords)
    elif isinstance(value, FunctionType):
        yield from _places_of_function(value)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not _is_of_library(type(value)):
        yield _Names(vars(value))


def _places_of_function(function: FunctionType) -> Iterator[Place]:
    names = frozenset(_read_names(function.__code__))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    yield from (_Cell(cell) for name, cell in cells if name in names)
    yield _Names(vars(function))
    if function.__defaults__:
        yield _Defaults(function)
    if not _is_of_library(function):
        yield _Names(function.__globals__, names)


def _is_of_library(value: Any) -> bool:
    return str(value.__module__).split(".")[0] in _LIBRARIES


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, nn.Module):
        return list(value._modules.values())
    if isinstance(value, partial):
        return [value.func]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    return list(value.values()) if isinstance(value, dict) else []


def _read_names(code: CodeType) -> Iterator[str]:
    """The names that a function's code looks up, without those that it only appends to.

    These are a log: taken away from whoever reads it later, nothing would be put back.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "PUSH_NULL")]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        logs = after is not None and after.argval == "append"
        if isinstance(step.argval, str) and step.opname.startswith(_LOOKS_UP) and not logs:
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _read_names(constant)
