"""What does not fit where a forward pass or a loss fails: model, inputs, output or target, and what to do.

Only what is there decides (kinds, shapes, types, ranges), never the words of an error, which change with torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.network.tensors import as_arguments, first_tensor

_IGNORED = -100  # the label that torch's cross entropy leaves out
_NORMALISES = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass
class Attempt:
    """One training step, as far as it came.

    Attributes:
        model: The network.
        inputs: Of the batch.
        target: Of the batch.
        outputs: What the network returned, in a tuple of one; empty until it did.
    """

    model: nn.Module
    inputs: Any
    target: Any = None
    outputs: tuple[Any, ...] = ()

    def way_out(self, error: BaseException) -> str:
        """What does not fit and what to do about it; empty where nothing is known, or the error says it itself.

        Example:
            >>> Attempt(nn.Linear(4, 2), torch.zeros(3, 4, dtype=torch.float64)).way_out(RuntimeError())
            'the inputs are float64 and the weights float32: pass x.float()'
        """
        if error.__cause__ is not None:  # whoever made it from another has explained it
            return ""
        try:
            found = self._of_loss() if self.outputs else self._of_forward(error)
            return next(found, "")
        except Exception:  # it is about an error: there must not be another one
            return ""

    def _of_forward(self, error: BaseException) -> Iterator[str]:
        args, kwargs = as_arguments(self.inputs)
        values = [*args, *kwargs.values()]
        layer = _failed_layer(self.model, error)
        yield from _no_forward(self.model)
        yield from _arguments(self.model, args, kwargs)
        yield from _no_tensors(values)
        if layer is not None:
            yield from _shape(*layer)
        yield from _dtype(self.model, values)
        if any(isinstance(one, _NORMALISES) for one in self.model.modules()) and _rows(first_tensor(values)) == 1:
            yield "one sample cannot be normalised over the batch: make batches of two or more (drop_last=True)"

    def _of_loss(self) -> Iterator[str]:
        [output], target = self.outputs, self.target
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            part = f"output[{next(iter(output))!r}]" if isinstance(output, Mapping) and output else "output[0]"
            part = part if isinstance(output, (Mapping, tuple, list)) else "output.logits"
            yield f"the model returns a {kind}: define `loss(output, target)` that takes what it needs: {part}"
        elif isinstance(target, (int, float)):
            yield "the target is a single number, so this is one sample: DataLoader(dataset, batch_size=32)"
        elif not isinstance(target, Tensor):
            yield from _no_tensors([target])
        else:
            yield from _rows_differ(output, target)
            yield from label_mismatch(output, target)
            yield from _same_shape(output, target)


def _failed_layer(model: nn.Module, error: BaseException) -> tuple[str, nn.Module, Tensor] | None:
    """The innermost module in whose forward an error was raised: its name, itself, and its first tensor."""
    names = {module: name for name, module in model.named_modules()}
    found = None
    for frame in _frames(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module in names and frame.f_code.co_name == "forward":
            others = (value for name, value in frame.f_locals.items() if name != "self")
            tensor = next((value for value in others if isinstance(value, Tensor)), None)
            found = None if tensor is None else (names[module], module, tensor)
    return found


def _frames(trace: TracebackType | None) -> Iterator[Any]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _no_forward(model: nn.Module) -> Iterator[str]:
    if type(model).forward is nn.Module.forward:
        name = type(model).__name__
        hint = (
            "; one with a training_step is recorded by `gradprobe run` of its script"
            if hasattr(model, "training_step")
            else ""
        )
        yield f"{name} has no forward: define `def forward(self, x)` in the class, beside __init__{hint}"


def _arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Inputs that the model's forward does not take."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        pass
    else:
        return
    names = ", ".join(signature.parameters)
    if kwargs:
        keys = list(kwargs)
        example = f"((batch[{keys[0]!r}], batch[{keys[-1]!r}]) for batch in loader)"
        yield (
            f"a batch that is a dict goes in as keywords ({', '.join(keys)}), and forward takes ({names}): "
            f"pass pairs, such as {example}"
        )
    else:
        many = f"a tuple of {len(args)}" if len(args) > 1 else "one value"
        yield f"the inputs are {many}, and forward takes ({names}): pass (inputs, target) with these inputs"


def _no_tensors(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if type(value).__module__.partition(".")[0] == "numpy":
            yield "a batch has NumPy arrays: torch.from_numpy(array), or take a DataLoader, which converts them"
        elif value is not None and not isinstance(value, (Tensor, Mapping, bool, int, float)):
            kind = type(value).__name__
            yield f"a batch has a {kind} in place of a tensor: torch.as_tensor, torch.stack or a DataLoader"


def _dtype(model: nn.Module, values: Iterable[Any]) -> Iterator[str]:
    """Inputs of another type than the weights; whole numbers are right for an embedding alone."""
    weight = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
    call = {torch.float32: "x.float()", torch.float64: "x.double()"}.get(weight, f"x.to({weight})")
    embeds = any(isinstance(one, (nn.Embedding, nn.EmbeddingBag)) for one in model.modules())
    for value in values:
        if not isinstance(value, Tensor) or value.is_complex():
            continue
        if value.is_floating_point() and embeds:
            yield "the inputs are floating-point, and an embedding takes indices: pass x.long()"
        elif value.dtype != weight and not embeds:
            scale = " / 255" if value.dtype == torch.uint8 else ""
            yield f"the inputs are {_name(value.dtype)} and the weights {_name(weight)}: pass {call}{scale}"


def _shape(name: str, layer: nn.Module, got: Tensor) -> Iterator[str]:
    """A layer that gets another number of features, channels or indices than it was built for."""
    where = f"{name} ({type(layer).__name__})" if name else type(layer).__name__
    shape = tuple(got.shape)
    if isinstance(layer, nn.Linear) and shape[-1:] != (layer.in_features,):
        wanted = layer.in_features
        flat = len(shape) > 2 and math.prod(shape[1:]) == wanted
        what = "put nn.Flatten() before it" if flat else f"build it with {_last_or_flat(shape)}"
        yield f"{where} takes {wanted} features and got {shape}: {what}"
    elif isinstance(layer, nn.modules.conv._ConvNd):
        axes = len(layer.kernel_size)
        channels, has = layer.in_channels, shape[-axes - 1] if len(shape) > axes else None
        if len(shape) == axes or (len(shape) == axes + 1 and has != channels):
            yield f"{where} takes (batch, {channels}, ...) and got {shape}: add the channels, x.unsqueeze(1)"
        elif has is not None and has != channels:
            last = shape[-1] == channels and len(shape) == axes + 2
            order = ", ".join(map(str, (0, axes + 1, *range(1, axes + 1))))
            what = f"channels come first, x.permute({order})" if last else f"build it with {has}"
            yield f"{where} takes {channels} channels and got {shape}: {what}"
    elif isinstance(layer, nn.Embedding) and not got.is_floating_point() and got.numel():
        low, high = int(got.min()), int(got.max())
        if low < 0 or high >= layer.num_embeddings:
            yield f"{where} has the indices 0 to {layer.num_embeddings - 1}, and got {low} to {high}"


def _last_or_flat(shape: tuple[int, ...]) -> str:
    flat = f", or {math.prod(shape[1:])} after nn.Flatten()" if len(shape) > 2 else ""
    return f"{shape[-1] if shape else 1}{flat}"


def _rows(value: Tensor | None) -> int:
    return value.shape[0] if value is not None and value.dim() else 0


def _rows_differ(output: Tensor, target: Tensor) -> Iterator[str]:
    if _rows(output) != _rows(target):
        yield (
            f"the output has {_rows(output)} rows {tuple(output.shape)} and the target {_rows(target)} "
            f"{tuple(target.shape)}: both begin with the batch; look at reshape and view in the forward"
        )


def label_mismatch(output: Tensor, target: Tensor) -> Iterator[str]:
    """Labels of classes: their type, their range, and an axis too many."""
    scores = output.dim() >= 2 and output.shape[1] > 1
    column = (target.shape[0], 1, *output.shape[2:]) if target.dim() else ()
    if scores and target.shape == column:
        yield f"the labels are a column {tuple(target.shape)}: pass y.squeeze(1)"
        target = target.squeeze(1)
    if not scores or output.dim() != target.dim() + 1 or not target.numel():
        return
    if target.dtype not in (torch.int64, torch.uint8):
        whole = not target.is_floating_point() or bool((target == target.round()).all())
        if whole:
            yield f"the labels are {_name(target.dtype)}, and classes are counted in int64: pass y.long()"
    labels = target[target != _IGNORED]
    count = output.shape[1]
    low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
    if low < 0 or high >= count:
        what = "pass y - 1" if (low, high) == (1, count) else f"give the last layer {high + 1} outputs"
        what = f"where {low} marks what does not count, ignore_index={low} in the loss" if low < 0 else what
        has = f"an output of shape {tuple(output.shape)} has the classes 0 to {count - 1}"
        yield f"the labels go from {low} to {high}, and {has}: {what}"


def _same_shape(output: Tensor, target: Tensor) -> Iterator[str]:
    """Output and target of the same number of elements, in another shape or of another type."""
    if output.numel() == target.numel() and output.shape != target.shape:
        is_column = output.dim() == 2 and target.dim() == 1
        call = "y.unsqueeze(1)" if is_column else f"y.view({', '.join(map(str, output.shape))})"
        call += "" if target.is_floating_point() else ".float()"
        yield f"the output is {tuple(output.shape)} and the target {tuple(target.shape)}: pass {call}"
    elif output.shape == target.shape and target.dtype != output.dtype:
        types = f"the output is {_name(output.dtype)} and the target {_name(target.dtype)}"
        yield f"{types}: pass y.to({output.dtype})"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
