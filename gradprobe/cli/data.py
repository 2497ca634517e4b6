"""The data of a target: what it defines, digits, an .npz file, a function, or random numbers that say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import torch
from torch import Tensor, nn

from gradprobe.cli.user_modules import import_module, optional, public, split_target
from gradprobe.measure.batches import Source
from gradprobe.network.layers import named_layers, no_such_name

Found = tuple[Source, Source | None, str]  # batches, those held out, and where they come from in words


@dataclass(frozen=True)
class DataOptions:
    """What the command line says of the data."""

    data: str | None = None
    input_size: tuple[int, ...] | None = None
    classes: int = 10
    batch_size: int = 32


def find_data(module: ModuleType, model: nn.Module, options: DataOptions, where: str) -> Found:
    """The batches of a target: the options' before its own.

    Raises:
        click.UsageError: There are none, or they cannot be used as they are.
        TargetError: A module that holds them raised.
    """
    held_out = optional(module, ("held_out",))
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


def _named_data(data: str, model: nn.Module, options: DataOptions) -> Found:
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
    where, attribute = split_target(data)
    if attribute is None:
        raise click.UsageError(f"--data {data}: expected digits, FILE.npz or module:callable")
    module = import_module(where)
    found = getattr(module, attribute, None)
    if found is None:
        raise click.UsageError(f"--data {where}: {no_such_name('attribute', attribute, public(module))}")
    return found, optional(module, ("held_out",)), data


def _digits_shape(model: nn.Module) -> tuple[int, ...]:
    first = next(iter(named_layers(model).values()), None)
    if isinstance(first, nn.Linear) and first.in_features == 64:
        return (64,)
    return (first.in_channels if isinstance(first, nn.Conv2d) else 1, 8, 8)


def _npz(file: str, batch_size: int, dtype: torch.dtype) -> Found:
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
