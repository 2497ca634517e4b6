"""What there is at a supervision point in a forward pass, and what its branch predicts from it."""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradprobe.insert.branches import Branch
from gradprobe.network.tensors import tensors
from gradprobe.record.points import is_input

_OUTPUT_HOOKS, _INPUT_HOOKS, WITH_KWARGS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class PointOutput(NamedTuple):
    """What there was at a point in a forward pass."""

    kept: Tensor  # for the branch: the original, or a copy of it
    original: Tensor
    version: int | None  # of the original when it was returned; None if it is not known


def hook_registries(module: nn.Module, name: str) -> dict[str, Any]:
    """What holds the hooks of a module at its input, or its output, by attribute."""
    attributes = (_INPUT_HOOKS, WITH_KWARGS) if is_input(name) else (_OUTPUT_HOOKS,)
    return {attribute: getattr(module, attribute) for attribute in attributes}


def keep_output(
    outputs: dict[str, PointOutput], name: str, index: int, copy: bool, module: nn.Module, args: Any, last: Any
) -> None:
    """The hook of a point; the last argument is what the module returned, or its keyword arguments."""
    tensor = next(islice(tensors([args, last] if is_input(name) else last), index, None), None)
    if tensor is not None:
        # while compiling always copy: the compiler removes a needless copy by itself
        version = None if torch.compiler.is_compiling() else version_of(tensor)
        kept = tensor.clone() if copy or version is None else tensor
        outputs[name] = PointOutput(kept, tensor, version)


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None for an inference tensor, which does not count that."""
    return None if tensor.is_inference() else tensor._version


def predict(branch: nn.Module, point: Tensor, like: Any) -> Any:
    """What a branch predicts from a point's tensor, laid out in memory as the network's own output is."""
    own = next(
        (parameter.dtype for parameter in branch.parameters() if parameter.is_floating_point()), point.dtype
    )
    if point.dtype != own and not torch.is_autocast_enabled(point.device.type):
        point = point.to(own)  # of a block that computes under autocast by itself
    predicted = branch(point, like=like) if isinstance(branch, Branch) else branch(point)
    # a loss may take .view() of the output, and so of a prediction in its place
    whole = isinstance(predicted, Tensor) and isinstance(like, Tensor) and like.is_contiguous()
    return predicted.contiguous() if whole else predicted
