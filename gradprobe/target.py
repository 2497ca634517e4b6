"""What the command line is pointed at: ``model.py``, ``model.py:attr``, ``package.module:attr``, and its data."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click
import torch
from torch import Tensor, nn

from gradprobe import engines
from gradprobe.batches import Source
from gradprobe.layers import main_tensor, named_layers, unknown
from gradprobe.loop import OptimizerFactory
from gradprobe.loss import LossFunction
from gradprobe.origin import own_frames
from gradprobe.training import is_classified

_NAME = "__gradprobe_target__"  # of the module that a file becomes
EXPECTED = (
    "expected `model` or `build_model()` in it, or a single torch.nn.Module subclass without required arguments; "
    "name another with TARGET:attr"
)


class TargetError(Exception):
    """The user's own code raised: the message is their error, with their frames of the traceback."""


@dataclass(frozen=True)
class DataOptions:
    """What the command line says of the data."""

    data: str | None = None
    input_size: tuple[int, ...] | None = None
    classes: int = 10
    batch_size: int = 32


@dataclass(frozen=True)
class Target:
    """A model and all that is needed to train it.

    Attributes:
        name: As it was asked for.
        model: The network.
        build: Builds another one with new initial weights, or None where the target is an instance.
        batches: Where its batches come from.
        loss_fn: ``(output, target) -> scalar``.
        optimizer: ``model -> Optimizer``, or None for the default.
        held_out: Batches to take the accuracy on, or None.
        data: Where the data come from, in words.
    """

    name: str
    model: nn.Module
    build: Callable[[], nn.Module] | None
    batches: Source
    loss_fn: LossFunction
    optimizer: OptimizerFactory | None
    held_out: Source | None
    data: str


def load_target(spec: str, options: DataOptions) -> Target:
    """Import a target and find its model, data, loss and optimizer.

    Raises:
        click.UsageError: It cannot be used as it is; the message says what was expected and what to do.
        TargetError: Its own code raised.
    """
    where, attribute = _split(spec)
    module = _import_file(where) if where.endswith(".py") else _import_module(where)
    name = attribute or _find_model(module, where)
    found = getattr(module, name, None)
    if found is None and hasattr(module, name):
        raise click.UsageError(f"{where}: `{name}` is None: {EXPECTED}")
    if found is None:
        raise click.UsageError(f"{where}: {unknown('attribute', name, _public(module))}")
    build = None if isinstance(found, nn.Module) else _factory(found, name, where)
    model = build() if build else found
    batches, held_out, data = _data(module, model, options, where)
    loss = _optional(module, ("loss", "criterion"))
    optimizer = _optional(module, ("optimizer",))
    for name, value in (("loss", loss), ("optimizer", optimizer)):
        if value is not None and not callable(value):
            expected = "(output, target) -> scalar" if name == "loss" else "model -> torch.optim.Optimizer"
            raise click.UsageError(
                f"{where}: expected `{name}` to be a function {expected}, got {_name(type(value))}"
            )
    return Target(spec, model, build, batches, loss or DefaultLoss(), optimizer, held_out, data)


def carry_along() -> None:
    """Let what a target's file defines travel to other processes, which do not have that file as a module."""
    module = sys.modules.get(_NAME)
    if module is not None:
        engines.carry_along(module)


class DefaultLoss:
    """The loss for a target that defines none: the model's own, cross entropy, or mean squared error.

    Where a batch is a dict, its ``labels`` are the target of a branch.

    Example:
        >>> loss = DefaultLoss()
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
        >>> loss.__name__
        'cross entropy (mean)'
    """

    def __init__(self) -> None:
        self.__name__ = "default"

    def __call__(self, output: Any, target: Any) -> Tensor:
        """The loss, by what the output and the target look like."""
        own = getattr(output, "loss", None)
        if isinstance(own, Tensor):
            self.__name__ = "the model's own"
            return own
        scores = output if isinstance(output, Tensor) else main_tensor(output)
        target = target.get("labels") if isinstance(target, dict) else target
        if scores is not None and is_classified(scores, target):
            self.__name__ = "cross entropy (mean)"
            return nn.functional.cross_entropy(scores, target)
        if scores is not None and isinstance(target, Tensor) and scores.shape == target.shape:
            self.__name__ = "mean squared error (mean)"
            return nn.functional.mse_loss(scores, target.to(scores.dtype))
        return _no_default(scores, target)


def _no_default(scores: Tensor | None, target: Any) -> NoReturn:
    shapes = [
        tuple(value.shape) if isinstance(value, Tensor) else _name(type(value)) for value in (scores, target)
    ]
    raise TypeError(
        f"no default loss fits an output {shapes[0]} and a target {shapes[1]}: "
        "define `loss(output, target)` in the target"
    )


def user_code(error: BaseException) -> str:
    """An error as its author wants to see it: the traceback without our frames and those of libraries."""
    frames = own_frames(error)
    head = ["Traceback (of your code):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*head, *traceback.format_exception_only(type(error), error)]).rstrip()


def _split(spec: str) -> tuple[str, str | None]:
    where, _, attribute = spec.rpartition(":")
    if where and attribute.isidentifier():
        return where, attribute
    return spec, None


def _import_file(where: str) -> ModuleType:
    path = Path(where)
    if not path.is_file():
        near = [found.name for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise click.UsageError(
            f"{where}: no such file" + (f"; there is {', '.join(sorted(near)[:5])}" if near else "")
        )
    # as `python model.py` would: its neighbours can be imported
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look it up there
    _run_user(lambda: spec.loader.exec_module(module), f"{where} failed while it was imported")  # type: ignore[union-attr]
    return module


def _import_module(where: str) -> ModuleType:
    if not all(part.isidentifier() for part in where.split(".")):
        raise click.UsageError(f"{where}: expected model.py, model.py:attr or package.module:attr")
    sys.path.insert(0, str(Path.cwd()))
    try:
        exists = importlib.util.find_spec(where) is not None
    except ModuleNotFoundError:
        exists = False
    if not exists:
        raise click.UsageError(f"{where}: no such file or module (a file needs its .py)")
    module: ModuleType = _run_user(lambda: importlib.import_module(where), f"{where} failed while it was imported")
    return module


def _run_user(call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except (click.ClickException, KeyboardInterrupt):
        raise
    except SystemExit as error:
        hint = "guard what trains with `if __name__ == '__main__':`"
        raise TargetError(f"{what}: it called sys.exit({error.code!r}); {hint}") from error
    except Exception as error:
        raise TargetError(f"{what}\n{user_code(error)}") from error


def _find_model(module: ModuleType, where: str) -> str:
    """Name of the one thing in the module that is or builds the model."""
    for name in ("model", "build_model"):
        if hasattr(module, name):
            return name
    instances = {name: value for name, value in _public(module).items() if isinstance(value, nn.Module)}
    losses = {name for name in ("loss", "criterion") if name in instances}
    instances = {name: value for name, value in instances.items() if name not in losses}
    classes = {
        name: value
        for name, value in _public(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    ready = {name: value for name, value in classes.items() if not _required(value)}
    for candidates in (instances, ready):
        if len(candidates) == 1:
            return next(iter(candidates))
        if candidates:
            choices = ", ".join(f"{where}:{name}" for name in candidates)
            raise click.UsageError(f"{where} has several models: name one of {choices}")
    if classes:
        needs = "; ".join(f"{name} needs {', '.join(_required(value))}" for name, value in classes.items())
        raise click.UsageError(f"{where}: {needs}. Define `build_model()` in it that passes them")
    raise click.UsageError(f"{where} has no model: {EXPECTED}")


def _public(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _required(call: Any) -> list[str]:
    """Names of the arguments that have no default."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _factory(found: Any, name: str, where: str) -> Callable[[], nn.Module]:
    if not callable(found):
        raise click.UsageError(f"{where}: `{name}` is no model: {EXPECTED}, got {_name(type(found))}")
    required = _required(found)
    if required:
        raise click.UsageError(
            f"{where}: `{name}` needs {', '.join(required)}. Define `build_model()` in it that passes them"
        )
    return lambda: _built(found, name, where)


def _built(build: Callable[[], Any], name: str, where: str) -> nn.Module:
    model = _run_user(build, f"{where}: `{name}` failed while the model was built")
    if not isinstance(model, nn.Module):
        raise click.UsageError(
            f"{where}: expected `{name}()` to return a torch.nn.Module, got {_name(type(model))}"
        )
    return model


def _optional(module: ModuleType, names: tuple[str, ...]) -> Any:
    return next((value for name in names if (value := getattr(module, name, None)) is not None), None)


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))


def _data(
    module: ModuleType, model: nn.Module, options: DataOptions, where: str
) -> tuple[Source, Source | None, str]:
    held_out = _optional(module, ("held_out",))
    if options.data is not None:
        batches, other, words = _named_data(options.data, model, options)
        return batches, other or held_out, words
    name = next((name for name in ("batches", "loader") if getattr(module, name, None) is not None), None)
    if name is not None:
        return getattr(module, name), held_out, f"{Path(where).name}:{name}"
    if options.input_size is not None:
        return _synthetic(options), None, f"synthetic data (random normal {options.input_size})"
    raise click.UsageError(
        f"{where} has no data: define `batches` or `loader` in it, an iterable of (inputs, target), or pass "
        "--data digits, --data FILE.npz, --data module:callable, or --input-size 3,224,224 --classes 10"
    )


def _named_data(data: str, model: nn.Module, options: DataOptions) -> tuple[Source, Source | None, str]:
    if data == "digits":
        from gradprobe.zoo import digits

        shape = options.input_size or _digits_shape(model)
        try:
            loaded = digits(shape, options.batch_size)
        except (ImportError, ValueError) as error:
            raise click.UsageError(str(error)) from error
        return loaded.batches, loaded.held_out, f"digits, 1797 real images as {shape}"
    if data.endswith(".npz"):
        return _npz(data, options.batch_size, next(model.parameters(), torch.empty(0)).dtype)
    where, attribute = _split(data)
    if attribute is None:
        raise click.UsageError(f"--data {data}: expected digits, FILE.npz or module:callable")
    module = _import_file(where) if where.endswith(".py") else _import_module(where)
    found = getattr(module, attribute, None)
    if found is None:
        raise click.UsageError(f"--data {where}: {unknown('attribute', attribute, _public(module))}")
    return found, _optional(module, ("held_out",)), data


def _digits_shape(model: nn.Module) -> tuple[int, ...]:
    first = next(iter(named_layers(model).values()), None)
    if isinstance(first, nn.Linear) and first.in_features == 64:
        return (64,)
    return (first.in_channels if isinstance(first, nn.Conv2d) else 1, 8, 8)


def _npz(file: str, batch_size: int, dtype: torch.dtype) -> tuple[Source, Source | None, str]:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            loaded = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except OSError as error:
        raise click.UsageError(f"--data {file}: {error.strerror or 'it cannot be read'}") from error
    except Exception as error:  # numpy has many for a file that is none of its own
        raise click.UsageError(f"--data {file}: expected an .npz archive of arrays, got something else") from error
    train, test = (_pair(loaded, endings, dtype) for endings in (("", "_train"), ("_test", "_held_out")))
    if train is None:
        names = ", ".join(loaded) or "nothing"
        raise click.UsageError(f"--data {file}: expected the arrays x and y (and x_test, y_test), got {names}")
    # the magnitude depends on the batch size, so a smaller rest is not trained on
    whole = [batch for batch in _cut(train, batch_size) if len(batch[0]) == batch_size]
    return whole or [train], test and _cut(test, batch_size), file


def _pair(arrays: dict[str, Tensor], endings: tuple[str, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    for ending in endings:
        for x, y in (("x", "y"), ("inputs", "target")):
            if f"{x}{ending}" in arrays and f"{y}{ending}" in arrays:
                inputs, target = arrays[f"{x}{ending}"], arrays[f"{y}{ending}"]
                if not inputs.dim() or not target.dim():
                    raise click.UsageError(
                        f"expected arrays of samples as {x}{ending} and {y}{ending}, got scalars"
                    )
                if len(inputs) != len(target) or not len(inputs):
                    counts = f"{len(inputs)} {x}{ending} and {len(target)} {y}{ending}"
                    raise click.UsageError(f"expected as many inputs as targets, at least one, got {counts}")
                return (
                    inputs.to(dtype) if inputs.is_floating_point() else inputs,
                    target.to(dtype) if target.is_floating_point() else target.long(),
                )
    return None


def _cut(pair: tuple[Tensor, Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(pair[0].split(size), pair[1].split(size), strict=True))


def _synthetic(options: DataOptions) -> list[tuple[Tensor, Tensor]]:
    # its own generator: the user's seed must not be drawn from
    generator = torch.Generator().manual_seed(0)
    size = options.input_size or ()
    return [
        (
            torch.randn(options.batch_size, *size, generator=generator),
            torch.randint(options.classes, (options.batch_size,), generator=generator),
        )
        for _ in range(8)
    ]
