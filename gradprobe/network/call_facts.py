"""What explains a missing gradient and shows only in the forward pass: how layers were called, and on what."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Set
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from gradprobe.network.layers import own_parameters
from gradprobe.network.tensors import tensors

CHECKPOINTED = "checkpointed"
SEVERAL = "several"
OPAQUE = "opaque"


class LooseParameter(NamedTuple):
    """A parameter that takes part in the forward pass and belongs to no registered module."""

    id: int
    shape: tuple[int, ...]


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


def loose_parameters(model: nn.Module, results: Iterable[Node], inputs: Set[Node]) -> tuple[LooseParameter, ...]:
    """The parameters in a graph that are not among the model's: those of layers in a plain list, say.

    Args:
        model: The network.
        results: The nodes that made its output.
        inputs: The nodes that made its inputs; what is before them is not the network's.

    Example:
        >>> hidden = [nn.Linear(3, 3, bias=False)]
        >>> net = nn.Linear(2, 3)
        >>> result = hidden[0](net(torch.ones(1, 2)))
        >>> [parameter.shape for parameter in loose_parameters(net, [result.grad_fn], set())]
        [(3, 3)]
    """
    if any(type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for module in model.modules()):
        return ()  # its gathered parameters stand in for the model's
    own = {id(parameter) for parameter in model.parameters()}
    seen, ahead, found = set(inputs), list(results), dict[int, LooseParameter]()
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions if following is not None]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and id(leaf) not in own:
            found[id(leaf)] = LooseParameter(id(leaf), tuple(map(int, leaf.shape)))
    return tuple(found.values())[::-1]
