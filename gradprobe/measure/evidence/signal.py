"""What layers return: how far it depends on the input, which units are never active, where it saturates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.evidence.sampling import axes_of, sample_output, units_of_each
from gradprobe.measure.reduction.samples import UnitRange, described, takes_all_shapes
from gradprobe.measure.reduction.values import is_immediate
from gradprobe.network.hooks import GuardedHook, is_captured
from gradprobe.network.tensors import measured_tensor, tensors

_NODES = 32  # of the graph that are kept of each layer until the backward pass
_CHUNK = 2**16  # elements of samples that wait to be reduced together: 256 kB, which a processor's cache holds


class Signal:
    """Samples what layers return while `is_on` is set, and reduces it on the device.

    Args:
        modules: The layers by name.
        called: Told of each call of a layer, by its name and output.

    Attributes:
        is_on: Whether this iteration is looked at.
        elements: Elements of the output of each layer in the iteration that is looked at.
        nodes: The graph's nodes that made outputs in it, with the layer of each.
        input: What the first layer was given, if that is data: RMS, mean, standard deviation, largest absolute
            value, and how far its examples differ (the RMS of what is left without their mean), on the device.
        eval_calls: How often a layer was called in eval mode in a pass that records gradients.
        of_one_example: How often batch normalisation saw one example.
    """

    def __init__(self, modules: Mapping[str, nn.Module], called: Callable[[str, Any], None]) -> None:
        self._told = called
        self._thread = threading.local()
        self._most = units_of_each(len(modules))
        self.is_on = False
        self.elements: dict[str, int] = {}
        self.nodes: dict[Any, str] = {}
        self.input: list[Tensor] = []
        self.calls: dict[str, int] = {}
        self.eval_calls: dict[str, int] = {}
        self.of_one_example: dict[str, int] = {}
        self._has_input = False
        self._seen: set[str] = set()
        self._missing: dict[str, str] = {}
        self._waiting: dict[tuple[Any, ...], list[tuple[str, Tensor]]] = {}
        self._count = 0
        self._rows: list[tuple[tuple[str, ...], Tensor]] = []
        self._ranges: dict[tuple[str, ...], UnitRange] = {}
        self._sums: dict[tuple[str, ...], tuple[int, Tensor, Tensor]] = {}

    @property
    def is_used_here(self) -> bool:
        """Whether the network is known to be used in the thread that asks."""
        return getattr(self._thread, "is_used", False)

    @is_used_here.setter
    def is_used_here(self, is_used: bool) -> None:
        self._thread.is_used = is_used

    def hook(self, name: str, failed: Callable[[Exception], None]) -> GuardedHook:
        """A forward hook for a layer."""
        return _SignalHook(self, name, failed)

    def called(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """A layer has returned something."""
        self.is_used_here = True
        if not torch.is_grad_enabled():
            return
        # what is called inside a backward pass is computed again, but what was called without gradients before
        is_again = torch._C._current_graph_task_id() != -1
        if is_again and name in self._seen:
            return
        tensor = output if type(output) is Tensor else measured_tensor(output)
        why = _not_ours(tensor)
        if tensor is None or why is not None:
            self._missing[name] = why or "no_tensor"
            return
        if not is_again:
            self._note_nodes(name, output)
        self._note_mode(name, module, args)
        self._told(name, output)
        if not self._has_input:
            self._look_at_input(args)
        if name not in self._seen:
            self._sample(name, module, tensor)

    def _sample(self, name: str, module: nn.Module, tensor: Tensor) -> None:
        why = _why_not(tensor)
        if why is not None:
            self._missing[name] = why
            return
        self._seen.add(name)
        batch, channels = axes_of(module, tensor.dim())
        self.elements[name] = tensor.numel()
        sample = sample_output(tensor, channels, batch, self._most)
        self._waiting.setdefault((sample.shape, sample.device), []).append((name, sample))
        self._count += sample.numel()
        if self._count > _CHUNK and is_immediate(sample.device):
            self._reduce()

    def _note_nodes(self, name: str, output: Any) -> None:
        if len(self.nodes) > _NODES * (len(self.calls) + 1):
            return  # no backward pass has been through them
        for tensor in (output,) if type(output) is Tensor else tensors(output):
            node = tensor.grad_fn
            if node is not None:
                self.nodes[node] = name

    def _note_mode(self, name: str, module: nn.Module, args: Any) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if not module.training:
            self.eval_calls[name] = self.eval_calls.get(name, 0) + 1
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and args and args[0].shape[0] == 1:
            self.of_one_example[name] = self.of_one_example.get(name, 0) + 1

    def _look_at_input(self, args: Any) -> None:
        given = next(tensors(args), None)
        self._has_input = True
        if given is None or type(given) is not Tensor or given.requires_grad or not given.is_floating_point():
            return
        if given.dim() < 2 or not given.numel():
            return
        values = sample_output(given, 1, 0, 1024)
        between = (values - values.mean(0)).square().mean().sqrt()
        self.input.append(
            torch.stack([values.square().mean().sqrt(), values.mean(), values.std(), values.abs().amax(), between])
        )

    def _reduce(self) -> None:
        waiting, self._waiting, self._count = self._waiting, {}, 0
        groups = list(waiting.values())
        for alike in groups:
            if alike[0][1].shape[0] == 1:
                self._add_up(tuple(name for name, _ in alike), torch.stack([sample[0] for _, sample in alike]))
        for some in _described_together(groups):
            names = tuple(name for name, _ in some)
            rows, found = described([sample for _, sample in some])
            self._rows.append((names, rows))
            known = self._ranges.get(names)
            self._ranges[names] = found if known is None else known.joined(found)

    def _add_up(self, names: tuple[str, ...], values: Tensor) -> None:
        """A batch of one example shows no spread; several of them do."""
        count, sums, squares = self._sums.get(names, (0, torch.zeros_like(values), torch.zeros_like(values)))
        if sums.shape == values.shape:
            self._sums[names] = count + 1, sums + values, squares + values.square()

    def end(self) -> list[tuple[tuple[str, ...], Tensor]]:
        """The iteration has ended: for groups of layers a row of `STATISTICS` each, on the device."""
        self._reduce()
        rows, self._rows = self._rows, []
        self.is_on = False
        self._seen.clear()
        self._has_input = False
        self.nodes = {}
        return rows

    def drop(self) -> None:
        """Forget what was not asked for."""
        self.end()
        self.elements = {}

    def missing(self) -> dict[str, str]:
        """For layers that were called and have no signal a code that says why."""
        measured = {name for names in self._ranges for name in names}
        return {name: why for name, why in self._missing.items() if name not in measured}

    def unit_shares(self) -> dict[str, dict[str, float]]:
        """For each layer the shares of units that never were above 0, and never within 3, in the window."""
        shares: dict[str, dict[str, float]] = {}
        for names, found in self._ranges.items():
            for name, units, own in zip(names, found.units, found.shares(), strict=True):
                never_positive, never_inside = own
                before = shares.get(name, {"never_positive": 1.0, "never_inside": 1.0})
                shares[name] = {
                    "never_positive": min(never_positive, before["never_positive"]),
                    "never_inside": min(never_inside, before["never_inside"]),
                    "sampled_units": float(units),
                }
        return shares

    def spread_over_window(self) -> dict[str, float]:
        """The spread of layers that were given one example at a time, over the iterations of the window."""
        result: dict[str, float] = {}
        for names, (count, sums, squares) in self._sums.items():
            if count > 1:
                variance = (squares - sums.square() / count).clamp(min=0) / (count - 1)
                spread = variance.mean((1, 2)).sqrt() / (squares.mean((1, 2)) / count).sqrt()
                result.update(zip(names, spread.tolist(), strict=True))
        return result


class _SignalHook(GuardedHook):
    """A hook that returns at once in iterations that are not looked at, which are most."""

    __slots__ = ("_name", "_signal")

    def __init__(self, signal: Signal, name: str, failed: Callable[[Exception], None]) -> None:
        super().__init__(None, failed)
        self._signal, self._name = signal, name

    def __call__(self, *args: Any) -> Any:
        """Pass the arguments on, in an iteration that is looked at."""
        return super().__call__(*args) if self._signal.is_on else None

    def run(self, module: nn.Module, args: Any, output: Any) -> None:
        """Look at what the layer has returned."""
        self._signal.called(self._name, module, args, output)


def _described_together(groups: list[list[tuple[str, Tensor]]]) -> list[list[tuple[str, Tensor]]]:
    """Samples that are described at once, of groups of one shape on one device."""
    together: dict[Any, list[tuple[str, Tensor]]] = {}
    for place, alike in enumerate(groups):
        device = alike[0][1].device
        together.setdefault(device if takes_all_shapes(device) else place, []).extend(alike)
    return list(together.values())


def _not_ours(tensor: Tensor | None) -> str | None:
    """Why a call is none of an ordinary pass, as a code."""
    if tensor is not None and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "transformed"
    return "captured" if is_captured() else None


def _why_not(tensor: Tensor) -> str | None:
    """Why there is no signal in what a layer returned, as a code."""
    if type(tensor) is not Tensor and not isinstance(tensor, nn.Parameter):
        return "kind"
    if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided or not tensor.is_floating_point():
        return "kind"
    return "one_axis" if tensor.dim() < 2 else None if tensor.numel() else "empty"
