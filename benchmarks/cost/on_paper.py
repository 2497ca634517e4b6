"""The cost of probing a sharded network of 70 billion parameters, counted on its shapes: nothing is computed.

The network is on the meta device, sharded by `fully_shard` over a fake process group. The probe is the
ordinary one; the operators that it calls are counted. The scratch buffers have their accelerator size.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gradprobe as gp
from benchmarks.cost.nets import layers_of

TOKENS = 4096  # of a rank's micro-batch: one sequence
WINDOW = 50


class Count(TorchDispatchMode):
    """Counts what becomes a kernel: operator calls other than views and allocations, and the bytes they read."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "empty" not in str(func):
            self.kernels += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


class Counted(NamedTuple):
    """What a probe does on one rank in an iteration, and once in a window of 50.

    Attributes:
        ranks: How many ranks the network is sharded over.
        of: Whose gradients.
        stats: Which statistics.
        gigabytes: Size of the gradients.
        kernels: Operator calls.
        read: Gigabytes that these read, most of it repeatedly from a scratch buffer in the cache.
        collective: Megabytes of the one table that the ranks exchange in a window.
    """

    ranks: str
    of: str
    stats: str
    gigabytes: float
    kernels: int
    read: float
    collective: float


def llama() -> nn.Module:
    """The shapes of Llama 3 70B in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        intermediate_size=28672,
        vocab_size=128256,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).to(torch.bfloat16)


def count_weights(ranks: int, stats: str) -> Counted:
    """The gradients of all weights, one rank's share."""
    model = llama()
    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=ranks)
    try:
        mesh = dist.init_device_mesh("cpu", (ranks,))
        for block in model.model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        with without_values(), gp.GradientProbe(model, of="weight", stats=stats) as probe, Count() as count:
            probe.step()
    finally:
        dist.destroy_process_group()
    local = sum(parameter.grad.to_local().nbytes for parameter in model.parameters())
    return Counted(
        str(ranks), "weight", stats, local / 1e9, count.kernels, count.bytes / 1e9, collective_megabytes(model)
    )


def count_outputs(stats: str) -> Counted:
    """The gradients of the outputs of one sequence; they are not sharded."""
    model = llama()
    sizes: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: sizes.append(output.nbytes))
        for layer in layers_of(model)
    ]
    bare = count_pass(model)
    for hook in hooks:
        hook.remove()
    with without_values(), gp.GradientProbe(model, of="output", stats=stats) as probe:
        count_pass(model)  # in the first pass the probe examines the network
        probe.step()
        count = count_pass(model)
    ours = count.kernels - bare.kernels, (count.bytes - bare.bytes) / 1e9
    return Counted("any", "output", stats, sum(sizes) / 1e9, *ours, collective_megabytes(model))


def count_pass(model: nn.Module) -> Count:
    """Count one forward and backward pass."""
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    # without a mask the model would look at values to find out what to mask
    mask = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool, device="meta")
    with Count() as count:
        model(input_ids=tokens, labels=tokens, attention_mask=mask, use_cache=False).loss.backward()
    model.zero_grad()
    return count


def collective_megabytes(model: nn.Module) -> float:
    """Megabytes that the ranks add up once in a window: six float64 for each iteration and layer."""
    return WINDOW * len(layers_of(model)) * 6 * 8 / 1e6


def without_values() -> contextlib.suppress:
    """Ignore that tensors on the meta device have no values, which the probe asks for at the end of its window."""
    return contextlib.suppress(NotImplementedError)
