"""The data of a target: what it defines, digits, an .npz file, a function, or random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import click
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gradprobe.cli.names import find_part, near_names
from gradprobe.cli.options import Options
from gradprobe.cli.user_modules import named_value, public_names
from gradprobe.measure.batches import Source
from gradprobe.network.layers import named_layers


@dataclass(frozen=True)
class Data:
    """What to train on.

    Attributes:
        batches: The batches.
        held_out: Batches to measure on, or None.
        source: Where they come from, in words.
        synthetic: Whether they are made up.
    """

    batches: Source
    held_out: Source | None
    source: str
    synthetic: bool = False


def find_data(module: ModuleType, model: nn.Module, options: Options, where: str) -> Data:
    """The batches of a target: those that the options name, else its own.

    Raises:
        click.UsageError: If there are none, or they cannot be used as they are.
        TargetError: If a module that holds them raised.
    """
    held_out = find_part(module, "held_out")[1]
    if options.data is not None:
        data = _named_data(options.data, model, options, {where: module})
        return replace(data, held_out=data.held_out or held_out)
    name, batches = find_part(module, "batches")
    if name:
        return Data(batches, held_out, f"{Path(where).name}:{name}")
    if options.input_size is not None:
        return _synthetic(options.input_size, options)
    meant = near_names(module, model, ["batches"])
    hint = "".join(f". Is it `{other}`? Then call that `{name}`" for other, name in meant.items())
    datasets = [name for name, value in public_names(module).items() if isinstance(value, Dataset)]
    hint += f". Of `{datasets[0]}`: `loader = DataLoader({datasets[0]}, batch_size=32)`" if datasets else ""
    raise click.UsageError(
        f"{where} has no data: define `batches` or `loader` in it, an iterable of (inputs, target), or pass "
        f"--data digits, --data FILE.npz, --data module:callable, or --input-size 3,224,224 --classes 10{hint}"
    )


def _named_data(name: str, model: nn.Module, options: Options, loaded: Mapping[str, ModuleType]) -> Data:
    if name == "digits":
        return _digits(model, options)
    if name.endswith(".npz"):
        return _npz(name, options.batch_size, next(model.parameters(), torch.empty(0)).dtype)
    module, batches = named_value("--data", name, loaded, "digits, FILE.npz or module:callable")
    return Data(batches, find_part(module, "held_out")[1], name)


def _digits(model: nn.Module, options: Options) -> Data:
    from gradprobe.zoo import digits

    shape = options.input_size or _digits_shape(model)
    try:
        images = digits(shape, options.batch_size)
    except (ImportError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    return Data(images.batches, images.held_out, f"digits, 1797 real images as {shape}")


def _digits_shape(model: nn.Module) -> tuple[int, ...]:
    first = next(iter(named_layers(model).values()), None)
    if isinstance(first, nn.Linear) and first.in_features == 64:
        return (64,)
    return (first.in_channels if isinstance(first, nn.Conv2d) else 1, 8, 8)


def _npz(file: str, batch_size: int, dtype: torch.dtype) -> Data:
    arrays = _read_npz(file)
    train = _pair(arrays, ("", "_train"), dtype)
    test = _pair(arrays, ("_test", "_held_out"), dtype)
    if train is None:
        names = ", ".join(arrays) or "nothing"
        raise click.UsageError(f"--data {file}: expected the arrays x and y (and x_test, y_test), got {names}")
    # the magnitude depends on the batch size, so a smaller last batch is not trained on
    full = [batch for batch in _cut(train, batch_size) if len(batch[0]) == batch_size]
    return Data(full or [train], test and _cut(test, batch_size), file)


def _read_npz(file: str) -> dict[str, Tensor]:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except OSError as error:
        raise click.UsageError(f"--data {file}: {error.strerror or 'it cannot be read'}") from error
    except Exception as error:  # numpy raises several kinds of error if the file is not an archive of arrays
        raise click.UsageError(f"--data {file}: expected an .npz archive of arrays, got something else") from error


def _pair(arrays: dict[str, Tensor], endings: tuple[str, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """The first inputs and targets whose names end so: ``x`` and ``y``, or ``inputs`` and ``target``."""
    for ending in endings:
        for names in ((f"x{ending}", f"y{ending}"), (f"inputs{ending}", f"target{ending}")):
            if all(name in arrays for name in names):
                inputs, target = (arrays[name] for name in names)
                _check_samples(inputs, target, *names)
                return (
                    inputs.to(dtype) if inputs.is_floating_point() else inputs,
                    target.to(dtype) if target.is_floating_point() else target.long(),
                )
    return None


def _check_samples(inputs: Tensor, target: Tensor, x: str, y: str) -> None:
    if not inputs.dim() or not target.dim():
        raise click.UsageError(f"expected arrays of samples as {x} and {y}, got scalars")
    if len(inputs) != len(target) or not len(inputs):
        counts = f"{len(inputs)} {x} and {len(target)} {y}"
        raise click.UsageError(f"expected as many inputs as targets, at least one, got {counts}")


def _cut(pair: tuple[Tensor, Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(pair[0].split(size), pair[1].split(size), strict=True))


def _synthetic(size: tuple[int, ...], options: Options) -> Data:
    # a generator of its own, so that it does not draw from the user's seed
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(options.batch_size, *size, generator=generator),
            torch.randint(options.classes, (options.batch_size,), generator=generator),
        )
        for _ in range(8)
    ]
    return Data(batches, None, f"synthetic data (random normal {size})", synthetic=True)
