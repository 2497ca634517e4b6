"""The gradient over time: how much of the loss' gradient arrives at each step of a sequence."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradprobe.measure.reduction.on_device import sent
from gradprobe.network.hooks import Attached, GuardedHook, is_captured
from gradprobe.network.tensors import measured_tensor
from gradprobe.record.evidence import rounded

STEPS = 32  # of a sequence that are kept, at most
LOOPED = 8  # calls of a layer in one pass, from which on they are steps of a loop
_EVERY = 8
_WHOLE = {nn.RNN: nn.RNN.forward, nn.LSTM: nn.LSTM.forward, nn.GRU: nn.GRU.forward}


def is_looked_at(iteration: int) -> bool:
    """Whether the gradient over time is taken in an iteration; it fades alike in all of them.

    Example:
        >>> [iteration for iteration in range(20) if is_looked_at(iteration)]
        [0, 1, 8, 16]
    """
    return iteration == 1 or iteration % _EVERY == 0


def lags(steps: int) -> list[int]:
    """How many steps before the end it is looked: at most `STEPS`, evenly, the last and the first step among them.

    Example:
        >>> lags(4), lags(200)[:3], lags(200)[-1], len(lags(200))
        ([0, 1, 2, 3], [0, 6, 12], 199, 32)
    """
    count = min(steps, STEPS)
    return [index * (steps - 1) // max(1, count - 1) for index in range(count)]


class _Means(NamedTuple):
    """Mean |gradient| at the `lags` of so many steps, or at one of them, on the device."""

    steps: int
    values: Tensor
    lag: int | None = None


class OverTime:
    """Mean |dL/d x_t| of the sequences that recurrent layers are given, in some iterations, on the device.

    A step is counted from the end of its own sequence. What was given as data requires no gradient: the layer
    then gets a leaf of the same memory that does, so that torch computes it beside all others, which stay as they
    are to the last bit. That is done only where torch's own code takes it. Layers that are called in a loop, as
    cells are, have the gradient of their output in each call.

    Args:
        modules: The layers by name.
        failed: Gets what a hook of ours raised.

    Attributes:
        is_on: Whether this iteration is looked at.
    """

    def __init__(self, modules: Mapping[str, nn.Module], failed: Callable[[Exception], None]) -> None:
        self._modules, self._failed = modules, failed
        self.is_on = False
        self._ours: dict[str, int] = {}
        self._handles: list[Any] = []
        self._calls: dict[str, int] = {}
        self._loops: set[str] = set()
        self._arrived: dict[str, list[_Means]] = {}
        self._reached: set[int] = set()
        self._pass_of: dict[str, list[_Means]] = {}
        self._kept: dict[str, list[_Means]] = {}
        self._missing: dict[str, str] = {}

    def attach(self, hooks: Attached) -> None:
        """Put hooks on the recurrent layers."""
        for name, module in self._modules.items():
            if isinstance(module, nn.RNNBase):
                hook = GuardedHook(partial(self._before, name), self._failed)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                self._ours[name] = handle.id
                hooks.add(handle)
        hooks.add(self)

    def remove(self) -> None:
        """Take the hooks off that are on tensors."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    # forward passes

    def _before(self, name: str, module: nn.RNNBase, args: Any, kwargs: dict[str, Any]) -> Any:
        """Before a recurrent layer is called: put a hook on the sequence that it is given."""
        if not self.is_on or not torch.is_grad_enabled():
            return None
        given: Any = args[0] if args else kwargs.get("input")
        packed: Tensor | None = given.batch_sizes if isinstance(given, PackedSequence) else None
        data: Tensor = given if packed is None else given.data
        axis = 1 if module.batch_first and data.dim() == 3 else 0
        if (data.shape[axis] if packed is None else len(packed)) < 2 or not data.numel():
            return None
        self._missing.setdefault(name, "no_path")
        why = self._why_not(name, module, data)
        if why is not None:
            self._missing[name] = why
            return None
        seen = data if data.requires_grad else data.detach().requires_grad_()
        take = partial(_by_lag, axis=axis) if packed is None else partial(_packed_by_lag, sizes=packed)
        self._hook(seen, partial(self._arrives, name, len(self._handles), take))
        if seen is data:
            return None
        taken: Any = seen if packed is None else PackedSequence(seen, packed, *given[2:])
        return ((taken, *args[1:]), kwargs) if args else (args, {**kwargs, "input": taken})

    def _why_not(self, name: str, module: nn.Module, data: Tensor) -> str | None:
        if torch._C._current_graph_task_id() != -1:
            return "checkpointed"
        if torch._C._functorch.maybe_current_level() is not None or type(data) is not Tensor:
            return "transformed"
        if is_captured():
            return "captured"
        if data.requires_grad:
            return None
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            return "checkpointed"  # what is computed again must save as many tensors as before
        own = vars(module).get("forward", type(module).forward)
        # a forward or a hook of the user may change its input in place, which a leaf does not allow
        is_last = next(reversed(module._forward_pre_hooks), None) == self._ours[name]
        return None if own is _WHOLE.get(type(module)) and is_last else "own_forward"

    def called(self, name: str, output: Any) -> None:
        """A layer was called: the second time and later in one pass it may be in a loop over the steps."""
        call = self._calls[name] = self._calls.get(name, 0) + 1
        if not self.is_on or name in self._ours or (call < 2 and name not in self._loops):
            return
        tensor = measured_tensor(output)
        if type(tensor) is Tensor and tensor.requires_grad and not tensor.is_leaf:
            self._hook(tensor, partial(self._arrives_at_call, name, call, len(self._handles)))

    def _hook(self, tensor: Tensor, call: Callable[[Tensor], None]) -> None:
        self._handles.append(tensor.register_hook(GuardedHook(call, self._failed)))

    # backward passes

    def _arrives(self, name: str, number: int, take: Callable[[Tensor], _Means], gradient: Tensor) -> None:
        if self.is_on and self._is_first(name, number):
            with torch.no_grad():
                self._arrived.setdefault(name, []).append(take(gradient.detach()))

    def _arrives_at_call(self, name: str, call: int, number: int, gradient: Tensor) -> None:
        steps = self._calls.get(name, 0)
        if not self.is_on or steps < LOOPED:
            return
        self._loops.add(name)
        lag = steps - call
        if lag in lags(steps) and self._is_first(name, number):
            mean = gradient.detach().abs().float().mean()
            self._arrived.setdefault(name, []).append(_Means(steps, mean, lag))

    def _is_first(self, name: str, number: int) -> bool:
        """Whether no other pass has been there: the means of two are not the mean of their sum."""
        if number in self._reached:
            self._missing[name] = "several_passes"
        self._reached.add(number)
        return self._missing.get(name) != "several_passes"

    def passed(self, scale: Tensor | None, counts: bool) -> None:
        """A backward pass has ended.

        Args:
            scale: What its loss was multiplied by.
            counts: Whether it put gradients into the network's weights.
        """
        arrived, self._arrived = self._arrived, {}
        self._calls.clear()
        for name, means in arrived.items() if counts else ():
            for one in _joined(means):
                values = one.values if scale is None else one.values / scale.to(one.values.device)
                self._pass_of.setdefault(name, []).append(one._replace(values=values))

    def end(self) -> None:
        """The iteration has ended."""
        for name, means in self._pass_of.items():
            if self._missing.get(name) != "several_passes":
                alike = [one.values for one in means if one.steps == means[0].steps]
                self._kept.setdefault(name, []).append(_Means(means[0].steps, torch.stack(alike).mean(0)))
        self.remove()
        self._arrived, self._pass_of = {}, {}
        self._calls.clear()
        self._reached.clear()

    def result(self) -> dict[str, dict[str, Any]]:
        """For each layer plain data, or ``missing`` with a code that says why. Waits for the device."""
        found: dict[str, dict[str, Any]] = {name: {"missing": why} for name, why in self._missing.items()}
        for name, means in self._kept.items():
            steps = statistics.mode(one.steps for one in means)
            table = torch.stack([one.values.cpu() for one in means if one.steps == steps]).double()
            found[name] = {
                "of": "input" if name in self._ours else "output",
                "steps": steps,
                "before_end": lags(steps),
                "gradient": [rounded(value) for value in table.median(0).values.tolist()],
                "iterations": len(table),
            }
        return found


def _joined(means: list[_Means]) -> list[_Means]:
    """The means of whole sequences; those of single calls in a loop are put together, if all are there."""
    calls = {one.lag: one for one in means if one.lag is not None}
    wholes = [one for one in means if one.lag is None]
    if not calls:
        return wholes
    steps = next(iter(calls.values())).steps
    wanted = lags(steps)
    if calls.keys() != set(wanted):
        return wholes
    return [*wholes, _Means(steps, torch.stack([calls[lag].values for lag in wanted]))]


def _at_lags(steps: int, device: torch.device) -> Tensor:
    """`lags` on a device."""
    count = min(steps, STEPS)
    return torch.arange(count, device=device) * (steps - 1) // max(1, count - 1)


def _by_lag(gradient: Tensor, axis: int) -> _Means:
    steps = gradient.shape[axis]
    some = gradient.index_select(axis, steps - 1 - _at_lags(steps, gradient.device))
    return _Means(steps, some.movedim(axis, 0).flatten(1).abs().float().mean(1))


def _packed_by_lag(gradient: Tensor, sizes: Tensor) -> _Means:
    """Of a packed sequence, whose rows are sorted by time, with so many sequences at each time.

    Example:
        >>> packed = nn.utils.rnn.pack_sequence([torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[5.0]])])
        >>> _packed_by_lag(*packed[:2]).values
        tensor([3., 2., 3.])
    """
    steps = len(sizes)
    time = torch.arange(steps).repeat_interleave(sizes)
    sequence = torch.arange(len(time)) - (sizes.cumsum(0) - sizes)[time]
    lengths = (sizes > torch.arange(int(sizes[0]))[:, None]).sum(1)
    lag = sent(lengths[sequence] - 1 - time, gradient.device)
    each = gradient.flatten(1).abs().float().mean(1)
    sums = torch.zeros(steps, device=gradient.device).index_add_(0, lag, each)
    counts = torch.zeros_like(sums).index_add_(0, lag, torch.ones_like(each))
    return _Means(steps, (sums / counts)[_at_lags(steps, gradient.device)])
