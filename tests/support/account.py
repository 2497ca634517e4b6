"""An independent float64 account of what layers return and how far steps move them, beside any loop."""

from __future__ import annotations

import math
from functools import partial

import torch

from gradprobe.measure.evidence.sampling import axes_of, sample_output
from gradprobe.network.hooks import GuardedHook
from gradprobe.network.layers import frozen_fast_path_modules, named_layers, own_parameters
from gradprobe.network.tensors import measured_tensor

COLUMNS = ("spread", "rms", "zeros", "beyond_3", "beyond_5", "nonfinite", "update")
MOST = 256  # elements of a weight, or of a row of an output, of which all are looked at


def fail(error):
    raise error


class Account:
    """Reads outputs and weights by hooks of its own, and computes from all of their elements in float64.

    Args:
        probe: Gives the number of the iteration, and nothing else.
        model: The network.
        optimizers: Those that step it.
    """

    def __init__(self, probe, model, optimizers):
        self.probe, self.found, self.steps = probe, {}, list(optimizers)
        self.layers = named_layers(model)
        unhooked = frozen_fast_path_modules(model)
        self.handles = [
            one.register_forward_hook(GuardedHook(partial(self.output, name), fail))
            for name, one in self.layers.items()
            if one not in unhooked
        ]
        for optimizer in optimizers:
            self.handles += [
                optimizer.register_step_pre_hook(self.before),
                optimizer.register_step_post_hook(self.after),
            ]

    def close(self):
        for handle in self.handles:
            handle.remove()

    def output(self, name, module, args, output):
        tensor = measured_tensor(output)
        key = (self.probe.recorded, name)
        if (
            not torch.is_grad_enabled()
            or "spread" in self.found.get(key, {})
            or not torch.is_floating_point(tensor)
        ):
            return
        self.found.setdefault(key, {}).update(signal(module, tensor.detach()))

    def weights(self, optimizer):
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        own = {
            name: [one for local, one in own_parameters(layer).items() if "bias" not in local]
            for name, layer in self.layers.items()
        }
        return {
            name: torch.cat([local(one).double().flatten().clone() for one in weights])
            for name, weights in own.items()
            if any(id(one) in held for one in weights)
        }

    def before(self, optimizer, *_):
        self.iteration, self.was = self.probe.recorded, self.weights(optimizer)

    def after(self, optimizer, *_):
        for name, now in self.weights(optimizer).items():
            moved = float((now - self.was[name]).norm() / self.was[name].norm())
            is_whole = max(one.numel() for one in own_parameters(self.layers[name]).values()) <= MOST
            self.found.setdefault((self.iteration, name), {})["update"] = moved if is_whole else None

    def differences(self, history, rel=1e-3, absolute=1e-6):
        """What the evidence of a history says otherwise: iteration, layer, column, its value and the account's.

        A number may be missing where the evidence has a reason; and none may be there that the account has not.
        """
        evidence = history.evidence
        if evidence.network["stopped"]:
            return [evidence.network["stopped"]]
        frame = evidence.frame[evidence.frame["layer"].isin(list(self.layers))]
        found = {
            (row.iteration, row.layer, column): getattr(row, column)
            for row in frame.itertuples()
            for column in COLUMNS
        }
        known = {(*key, column): value for key, numbers in self.found.items() for column, value in numbers.items()}
        return [
            (*key, value, known.get(key))
            for key, value in found.items()
            if not self._fits(key, value, known, evidence.layers, rel, absolute)
        ]

    def _fits(self, key, value, known, facts, rel, absolute):
        _, layer, column = key
        if key not in known:
            return math.isnan(value) or (column == "update" and not self.steps)  # steps by hand are not seen here
        expected = known[key]
        if expected is None or not math.isfinite(expected):
            return True  # of a sample, or not defined
        if math.isnan(value):
            return ("no_update" if column == "update" else "no_signal") in facts.get(layer, {})
        return math.isclose(value, expected, rel_tol=rel, abs_tol=absolute)


def local(parameter):
    """A rank's own part of a parameter."""
    detached = parameter.detach()
    return detached.to_local() if hasattr(detached, "to_local") else detached


def signal(module, tensor):
    """The numbers of the definition; None where only a sample of the elements is looked at."""
    if tensor.dim() < 2 or not tensor.numel():
        return {}
    batch, channels = axes_of(module, tensor.dim())
    values = tensor.double()
    if sample_output(tensor, channels, batch, MOST).numel() != tensor.numel():
        return dict.fromkeys(COLUMNS[:-1])  # all but the update
    squares = values.square().mean()
    varied = (values - values.mean(batch, keepdim=True)).square().mean()
    rows = values.shape[batch]
    numbers = {
        "rms": squares.sqrt(),
        "zeros": (values == 0).double().mean(),
        "beyond_3": (values.abs() > 3).double().mean(),
        "beyond_5": (values.abs() > 5).double().mean(),
        "nonfinite": (~values.isfinite()).double().mean(),
    }
    if rows > 1:
        numbers["spread"] = (varied * rows / (rows - 1) / squares).sqrt()
    return {"spread": None, **{name: float(value) for name, value in numbers.items()}}
