"""Layers: their canonical names, their own parameters, choosing among them, and what is special about a call."""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction

from gradprobe.network.tensors import tensors

CHECKPOINTED, SEVERAL, OPAQUE = "checkpointed", "several", "opaque"  # what `call_fact` says of a call
NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
PARAMETRIZED = "parametrizations"
_COMPILED = "_orig_mod"  # the attribute by which a compiled module holds the original


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that own parameters, by canonical name; a module reached by two names has its first.

    A parametrized module (weight norm, spectral norm, ``torch.nn.utils.parametrize``) owns the original
    tensors of its parametrizations: the layer is the convolution, not the bookkeeping module inside it.

    Example:
        >>> list(named_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))))
        ['0', '2']
    """
    return {name: module for name, module in named_modules(model) if own_parameters(module)}


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules by the names that they have in the bare model, whatever is wrapped around it or its parts."""
    return [
        (".".join(part for part in name.split(".") if part != _COMPILED), module)
        for name, module in unwrap(model).named_modules()
        if not _is_wrapper(module)
    ]


def is_inside(outer: str, name: str) -> bool:
    """Whether a name is that of a module or of one inside it.

    Example:
        >>> is_inside("block", "block.conv"), is_inside("block", "block"), is_inside("block", "block2.conv")
        (True, True, False)
    """
    return f"{name}.".startswith(f"{outer}.")


def unwrap(model: nn.Module) -> nn.Module:
    """The bare model inside DistributedDataParallel, DataParallel and ``torch.compile``."""
    while _is_wrapper(model):
        inner = getattr(model, _COMPILED, None)
        model = model.module if inner is None else inner  # type: ignore[assignment]
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether the model or a part of it went through ``torch.compile``."""
    return any(
        _COMPILED in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _is_wrapper(module: nn.Module) -> bool:
    parallel = isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    return parallel or _COMPILED in module._modules


def frozen_fast_path_modules(model: nn.Module) -> set[nn.Module]:
    """Frozen transformer layers in eval mode, and what is inside them.

    Without gradients torch takes a fast path through them, unless a hook is on one of them or a torch function
    mode is on. The fast path rounds differently, so hooks there would change the user's training.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16).eval()
        >>> len(frozen_fast_path_modules(layer))
        0
        >>> layer in frozen_fast_path_modules(layer.requires_grad_(False))
        True
    """
    modules: set[nn.Module] = set()
    for module in model.modules():
        fast = isinstance(module, (nn.TransformerEncoderLayer, nn.MultiheadAttention)) and not module.training
        if fast and not any(parameter.requires_grad for parameter in module.parameters()):
            modules.update(module.modules())
    return modules


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's own parameters by local name, without those of its submodules."""
    if type(module).__name__ == "ParametrizationList":
        return {}
    own = dict(module.named_parameters(recurse=False))
    for tensor, parametrization in getattr(module, PARAMETRIZED, {}).items():
        for name, parameter in parametrization.named_parameters(recurse=False):
            own[f"{tensor}.{name}"] = parameter
    return own


def parameter_place(module: nn.Module, local: str) -> tuple[dict[str, nn.Parameter | None], str]:
    """The dictionary that a parameter is in, and its key there, by its name in `own_parameters`.

    Example:
        >>> owner, key = parameter_place(nn.Linear(2, 1), "weight")
        >>> key, owner[key].shape
        ('weight', torch.Size([1, 2]))
    """
    tensor, _, name = local.rpartition(".")
    owner = getattr(module, PARAMETRIZED)[tensor] if tensor else module
    return owner._parameters, name


def weight_names(module: nn.Module) -> list[str]:
    """Local names of a module's own parameters other than biases.

    A bias is a parameter whose name has the word ``bias`` in it: ``bias``, ``bias_ih_l0``, ``in_proj_bias``.

    Example:
        >>> weight_names(nn.LSTM(3, 2))
        ['weight_ih_l0', 'weight_hh_l0']
    """
    return [name for name in own_parameters(module) if "bias" not in name.replace(".", "_").split("_")]


def recurrent_weights(module: nn.Module) -> list[str]:
    """Local names of the weights of a recurrent layer; none for any other layer.

    Those from the input to the state and from one state to the next fade and explode apart from each other. A
    layer is recurrent if one of its weights has the word ``hh`` in its name, as torch calls them.

    Example:
        >>> recurrent_weights(nn.GRUCell(3, 2)), recurrent_weights(nn.LSTM(3, 4, proj_size=2, bias=False))
        (['weight_ih', 'weight_hh'], ['weight_ih_l0', 'weight_hh_l0', 'weight_hr_l0'])
        >>> recurrent_weights(nn.Linear(3, 2))
        []
    """
    names = weight_names(module)
    return names if any("hh" in name.replace(".", "_").split("_") for name in names) else []


def weight_row(layer: str, local: str) -> str:
    """What a row of a single weight is called: the weight's name in the network.

    Example:
        >>> weight_row("encoder.rnn", "weight_hh_l0"), weight_row("", "weight_hh_l0")
        ('encoder.rnn.weight_hh_l0', 'weight_hh_l0')
    """
    return f"{layer}.{local}" if layer else local


def matching_names(names: Iterable[str], patterns: Iterable[str] | None) -> list[str]:
    """Filter names by exact names or shell patterns, keeping their order; None keeps all.

    Raises:
        ValueError: If a pattern fits no name; the message names the closest.

    Example:
        >>> matching_names(["conv1", "conv2", "fc"], ["conv*"])
        ['conv1', 'conv2']
        >>> matching_names(["conv1", "conv2", "fc"], ["conv3"])
        Traceback (most recent call last):
        ValueError: no layer is called 'conv3'; did you mean 'conv1' or 'conv2'?
    """
    names = list(names)
    if patterns is None:
        return names
    wanted: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(no_such_name("layer", pattern, names))
        wanted.update(matching)
    return [name for name in names if name in wanted]


def no_such_name(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the closest ones that do."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=2) or known[:3]
    hint = " or ".join(map(repr, sorted(close)))
    return f"no {what} is called {name!r}" + (f"; did you mean {hint}?" if hint else "; there is none")


def call_fact(module: nn.Module, output: Any) -> str | None:
    """What is special about a call that just ended, as a code.

    Returns:
        ``CHECKPOINTED``: it was called inside reentrant checkpointing that no gradient can pass, for none of its
        inputs requires one. ``SEVERAL``: several tensors that it returned require a gradient. ``OPAQUE``: in what
        it returned no tensor can be seen. Else None.

    Example:
        >>> lstm, x = nn.LSTM(2, 3), torch.ones(4, 1, 2)
        >>> call_fact(lstm, lstm(x)), call_fact(nn.Linear(2, 3), object())
        ('several', 'opaque')
    """
    returned = list(tensors(output))
    if not returned:
        return None if output is None else OPAQUE
    if sum(tensor.requires_grad for tensor in returned) > 1:
        return SEVERAL
    trained = any(parameter.requires_grad for parameter in own_parameters(module).values())
    if trained and not torch.is_grad_enabled() and _in_checkpoint_without_gradient():
        return CHECKPOINTED
    return None


def _in_checkpoint_without_gradient() -> bool:
    """Whether an autograd function that checkpoints is being called, and none of its inputs requires a gradient.

    That of torch is ``torch.utils.checkpoint.CheckpointFunction``; those of other libraries are named alike.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_argcount:
            context = frame.f_locals.get(code.co_varnames[0])
            if isinstance(context, BackwardCFunction) and "checkpoint" in type(context).__name__.lower():
                return not any(context.needs_input_grad)
        frame = frame.f_back
    return False
