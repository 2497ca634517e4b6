"""Batches of any origin as an endless stream that can be started again from the beginning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gradprobe.network.tensors import as_arguments, tensors

Source = Iterable[Any] | Callable[[], Iterable[Any]]


class Batches:
    """``(inputs, target)`` batches, repeated when they are fewer than asked for.

    Args:
        source: An iterable of batches or a function that returns one. A one-shot iterator is kept in memory
            as far as it was read, so that it can be repeated. Inputs that are a tuple go to the model as
            positional arguments, a dict as keywords. A batch that is itself a dict goes in as keywords, and the
            loss function gets it as the target.
        name: The name of the argument, for errors.

    Attributes:
        source: The same, as something that can be gone through any number of times.

    Example:
        >>> batches = Batches([("x0", "y0"), ("x1", "y1")])
        >>> stream = batches.stream()
        >>> [next(stream)[1] for _ in range(3)]
        ['y0', 'y1', 'y0']
    """

    def __init__(self, source: Source, name: str = "batches") -> None:
        given: Any = source
        if not callable(given) and not isinstance(given, Iterable):
            is_dataset = hasattr(given, "__getitem__") and hasattr(given, "__len__")
            hint = (
                ", which yields samples: torch.utils.data.DataLoader(dataset, batch_size=32)" if is_dataset else ""
            )
            raise TypeError(
                f"expected {name}= to be an iterable of (inputs, target) or a function returning one, "
                f"got {type(source).__name__}{hint}"
            )
        if isinstance(source, (Tensor, str, dict)):
            raise TypeError(f"expected an iterable of (inputs, target) batches, got one {type(source).__name__}")
        self._name = name
        self.source: Source = _Replayed(source) if isinstance(source, Iterator) else source

    def generators(self) -> list[torch.Generator]:
        """The loader's own random number generators, which the global seed does not set."""
        loader = self.source
        batch_sampler = getattr(loader, "batch_sampler", None)
        owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        generators = (getattr(owner, "generator", None) for owner in owners)
        return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())

    @contextlib.contextmanager
    def rewound(self) -> Iterator[None]:
        """Put the loader's own generators back at the end: the next training has to see the same batches."""
        states = {generator: generator.get_state() for generator in self.generators()}
        try:
            yield
        finally:
            for generator, state in states.items():
                generator.set_state(state)

    def once(self) -> Iterator[tuple[Any, Any]]:
        """One pass."""
        source = self.source
        batches = source() if callable(source) and not isinstance(source, Iterable) else source
        if not isinstance(batches, Iterable):
            raise TypeError(
                f"expected the function {self._name}= to return an iterable of (inputs, target), "
                f"got {type(batches).__name__}"
            )
        return (split_batch(batch, index) for index, batch in enumerate(batches))

    def stream(self) -> Iterator[tuple[Any, Any]]:
        """Pass after pass without end."""
        while True:
            empty = True
            for batch in self.once():
                empty = False
                yield batch
            if empty:
                raise ValueError("expected at least one batch, got none")


class _Replayed:
    """A one-shot iterator that can be gone through again."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self._kept
        for batch in self._source:
            self._kept.append(batch)
            yield batch


def split_batch(batch: Any, index: int = 0) -> tuple[Any, Any]:
    """Inputs and target of a batch.

    Raises:
        TypeError: If it is neither a pair nor a dict.
    """
    if isinstance(batch, dict):
        return batch, batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    shape = f" of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else ""
    count = f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise TypeError(
        f"expected each batch to be (inputs, target) or a dict, got {type(batch).__name__}{shape}{count} "
        f"as batch {index}: {_PAIRED.get(len(batch) if count else 0, _MORE)}"
    )


_PAIRED = {0: "pair them, as in ((x, y) for ...), with x twice for an autoencoder", 1: "the target is missing"}
_MORE = "pair them, as in ((x, y) for x, y, *_ in loader), or ((x, mask), y) where the model takes several inputs"


def forward(model: torch.nn.Module, inputs: Any) -> Any:
    """Call a model on the inputs of a batch."""
    args, kwargs = as_arguments(inputs)
    return model(*args, **kwargs)


def describe(inputs: Any) -> str:
    """The shapes of a batch's inputs, for an error message.

    Example:
        >>> describe((torch.zeros(2, 3), torch.zeros(2)))
        '(2, 3), (2,)'
    """
    args, kwargs = as_arguments(inputs)
    parts = [("", value) for value in args] + [(f"{name}=", value) for name, value in kwargs.items()]
    return ", ".join(
        f"{name}{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for name, value in parts
    )


def kind_of(inputs: Any) -> str:
    """How the inputs are passed: ``"dict"`` as keywords, ``"tuple"`` as positional arguments, ``"tensor"`` as one.

    Example:
        >>> kind_of({"x": torch.zeros(2)}), kind_of((torch.zeros(2),)), kind_of(torch.zeros(2))
        ('dict', 'tuple', 'tensor')
    """
    _, kwargs = as_arguments(inputs)
    return "dict" if kwargs else "tuple" if isinstance(inputs, tuple) else "tensor"


def fingerprint(batch: tuple[Any, Any]) -> Tensor:
    """A number on the batch's device that is almost surely another one for another batch.

    Example:
        >>> fingerprint((torch.tensor([1.0, 2.0]), None)) == fingerprint((torch.tensor([2.0, 1.0]), None))
        tensor(False)
    """
    total = torch.zeros((), dtype=torch.float64)
    for tensor in tensors(batch):
        values = tensor.detach().flatten()
        values = (values.abs() if values.is_complex() else values).double().nan_to_num()
        weights = torch.arange(1, len(values) + 1, dtype=torch.float64, device=values.device)
        total = total.to(values.device) + (values * weights).sum()
    return total


def to_device(value: Any, device: torch.device) -> Any:
    """A copy on the device of every tensor inside tuples, lists and dicts.

    A copy even where it is there already: a forward that works in place must not change the user's data.
    """
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True).requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(to_device(item, device) for item in value)
    return value
