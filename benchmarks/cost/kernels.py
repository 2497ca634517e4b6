"""How many kernels a probe starts on an accelerator and how much these read, counted on shapes.

    python benchmarks/cost/kernels.py [NET ...] [--out FILE]

Nothing is computed: the networks are on the meta device, which the probe takes for an accelerator here. Before and
after: by torch's kernels, and by those that read each gradient once (gradprobe/measure/reduction/kernels.py).
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gradprobe as gp
from benchmarks.cost.nets import gpt2, layers_of, resnet50
from benchmarks.report import Report
from gradprobe.measure.evidence.sampling import is_sampled
from gradprobe.measure.reduction import on_device
from gradprobe.measure.reduction.values import local_part

META = torch.device("meta")
RANKS = 64
TOKENS = 4096  # of one sequence
EXPLANATION = """\
For one iteration. Kernels: operator calls other than views and allocations, and launches of gradprobe's own
kernels; those of the bare training are taken off. A copy of a table of addresses to the device counts as a kernel.
Read: the bytes that they are given, to the bytes of the gradients; what torch's kernels read again and again is
their scratch buffer. In the first 4 iterations, and then in 1 of 4, the signal and the update are looked at as
well: "looked at". "Each, of 50" is the mean over a window of 50 iterations, of which these are 16.

Llama 3 70B in bfloat16: weights sharded by FSDP2 over 64 ranks, the share of one; outputs of one sequence of 4,096
tokens."""
COLUMNS = (
    "network",
    "gradients of",
    "how many",
    "MB",
    "kernels by",
    "kernels",
    "each",
    "read",
    "looked at: kernels",
    "each, of 50",
)
WINDOW = 50


class Count(TorchDispatchMode):
    """Counts what becomes a kernel, the bytes that these are given, and what waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func.is_view and not any(part in str(func) for part in ("empty", "detach", "lift_fresh")):
            self.add(sum(leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, Tensor)))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            self.look_at_copy(args, kwargs)
        return func(*args, **kwargs)

    def look_at_copy(self, args: Any, kwargs: Any) -> None:
        """A copy from the host waits for what the device is doing, if it is not told not to."""
        source, to = args[-1 if len(args) < 3 else 1], kwargs.get("device", args[0].device)
        may_run_on = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        if source.device.type == "cpu" and torch.device(to) == META and not may_run_on:
            self.waits.append(f"{tuple(source.shape)} {source.dtype}")

    def add(self, size: int) -> None:
        """A kernel that reads so many bytes."""
        self.kernels += 1
        self.bytes += size


class Step(NamedTuple):
    """What a step does: kernels, bytes, and copies that wait for the device."""

    kernels: int
    bytes: int
    waits: list[str]


class Case(NamedTuple):
    """A training on the meta device.

    Attributes:
        model: The network.
        backward: Makes gradients.
        of: Whose gradients are recorded.
    """

    model: nn.Module
    backward: Callable[[], object]
    of: str


@contextlib.contextmanager
def imitated(*, triton: bool) -> Iterator[list[Count]]:
    """Let the meta device pass for an accelerator; yields a list for what counts at the moment."""
    counting: list[Count] = []
    tried = on_device.OnDevice._tried

    def counted(self: Any, measure: Any, gradients: Any) -> Tensor | None:
        found = tried(self, measure, gradients)
        if found is not None:
            # each element once, and of each piece the row, which is written and read
            rows = sum(on_device._pieces_of(gradient.numel())[0] for gradient in gradients)
            counting[-1].bytes += sum(gradient.nbytes for gradient in gradients) + 40 * rows
        return found

    def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
        counting[-1].add(0)

    addresses = iter(range(16, 2**62, 16))
    replaced = {
        "DEVICES": frozenset({"meta"}),
        "_works": {META: triton},
        "stream": lambda device: 0,
        "_current": lambda device: contextlib.nullcontext(),
        "_pinned": lambda tensor, device: tensor,
        "launch": launch,
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(on_device, name, value))
        stack.enter_context(mock.patch.object(on_device.OnDevice, "_tried", counted))
        stack.enter_context(mock.patch.object(Tensor, "is_meta", property(lambda self: False)))
        stack.enter_context(mock.patch.object(Tensor, "data_ptr", lambda self: next(addresses)))  # noqa: PT008
        yield counting


def steps(case: Case, counting: list[Count], iterations: int, *, probed: bool) -> list[Step]:
    """What the steps of a training do."""
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    found = []
    probe = gp.GradientProbe(case.model, optimizer=optimizer, of=case.of) if probed else None
    with contextlib.suppress(NotImplementedError), probe or contextlib.nullcontext():
        for _ in range(iterations):
            with Count() as count:
                counting.append(count)
                case.backward()
                optimizer.step()
                optimizer.zero_grad()
            found.append(Step(count.kernels, count.bytes, count.waits))
        failures = [probe._stopped, probe._refused, probe._evidence._why] if probe else []
        # at its end the probe asks for values, which there are none of
    if probe is not None:
        probe._hooks.remove()
    assert not any(failures), failures
    return found


def convolutional(of: str) -> Case:
    """ResNet-50 at 224x224, batch 32."""
    with torch.device("meta"):
        training = resnet50(batch=32)
    return Case(training.model, lambda: training.loss().backward(), of)


def transformer(model: nn.Module, batch: int, length: int, of: str) -> Case:
    """A language model and sequences for it."""
    tokens = torch.zeros(batch, length, dtype=torch.long, device=META)
    # without a mask the model would look at values to find out what to mask
    mask = torch.ones(batch, 1, length, length, dtype=torch.bool, device=META)

    def backward() -> None:
        model(input_ids=tokens, labels=tokens, attention_mask=mask, use_cache=False).loss.backward()

    return Case(model, backward, of)


def gpt2_small(of: str) -> Case:
    """GPT-2 small in bfloat16, 8 sequences of 1,024 tokens."""
    with torch.device("meta"):
        return transformer(gpt2().model.to(torch.bfloat16), 8, 1024, of)


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


def llama_70b(of: str) -> Case:
    """Llama 3 70B in bfloat16: one sequence, or one rank's share of the weights."""
    model = llama()
    if of == "output":
        return transformer(model, 1, TOKENS, of)
    mesh = dist.init_device_mesh("cpu", (RANKS,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)

    def backward() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)

    return Case(model, backward, of)


CASES = {"resnet50": convolutional, "gpt2": gpt2_small, "llama": llama_70b}


def counted(make: Callable[[str], Case], of: str, *, triton: bool) -> tuple[Step, Step]:
    """What a probe adds to an iteration, and to one that is looked at closely."""
    case = make(of)
    with imitated(triton=triton) as counting:
        bare = steps(case, counting, 2, probed=False)[-1]
        found = steps(case, counting, 6, probed=True)
    waits = [wait for step in found for wait in step.waits[len(bare.waits) :]]
    usual, looked_at = (
        Step(one.kernels - bare.kernels, one.bytes - bare.bytes, waits) for one in (found[5], found[4])
    )
    return usual, looked_at


def gradients(case: Case) -> list[int]:
    """Bytes of the gradients."""
    if case.of == "weight":
        case.backward()
        # a weight that two layers share is read for each
        named = [pair for layer in layers_of(case.model) for pair in layer.named_parameters(recurse=False)]
        return [local_part(one.grad).nbytes for name, one in named if "bias" not in name]
    sizes: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: sizes.append(output.nbytes))
        for layer in layers_of(case.model)
    ]
    case.backward()
    for hook in hooks:
        hook.remove()
    return sizes


@contextlib.contextmanager
def ranks() -> Iterator[None]:
    """A process group of many ranks, of which this is one and the others do not exist."""
    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=RANKS)
    try:
        yield
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Count all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = Report("Kernels of a probe on an accelerator", EXPLANATION, packages=["torch", "transformers"])
    report.columns(*COLUMNS)
    for name in options.nets or CASES:
        for of in ("weight", "output"):
            with ranks() if name == "llama" and of == "weight" else contextlib.nullcontext():
                with imitated(triton=True):
                    sizes = gradients(CASES[name](of))
                for by in ("torch", "Triton"):
                    usual, looked_at = counted(CASES[name], of, triton=by == "Triton")
                    each = f"{usual.kernels / len(sizes):.2f}"
                    read = f"{usual.bytes / sum(sizes):.2f}"
                    several = sum(map(is_sampled, range(WINDOW)))
                    together = (WINDOW - several) * usual.kernels + several * looked_at.kernels
                    mean = f"{together / WINDOW / len(sizes):.2f}"
                    cells = (by, f"{usual.kernels:,}", each, read, f"{looked_at.kernels:,}", mean)
                    report.row(name, of, len(sizes), f"{sum(sizes) / 1e6:,.0f}", *cells)
    report.write(options.out)


if __name__ == "__main__":
    main()
