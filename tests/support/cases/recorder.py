"""An independent record of gradients: plain reading, with nothing of gradprobe in it."""

from __future__ import annotations

import copy
import re

import numpy as np
import torch
from torch import nn

MEASURES = ("mean_abs", "rms", "max_abs", "zero_fraction", "nonfinite")


class Bare:
    def __init__(self, model, optimizer):
        self.model = model

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read(self, scale=1.0, only=None, last=True, cleared=True):
        """Every gradient stands as the optimizer is about to use it; ``scale`` is on the outputs still.

        Of several optimizers, each uses ``only`` its own parameters; the ``last`` one ends the iteration. What is
        not ``cleared`` afterwards is in the next gradients as well.
        """

    def forget(self):
        """What was computed since `read` belongs to no iteration."""


class Recorder(Bare):
    """Plain reading: ``.grad`` of the parameters before the step, ``.grad`` of a copy of every layer's output.

    ``found`` is ``{(iteration, layer, of): statistics}``, absent where no gradient arrived; ``sizes`` the number
    of weight elements behind it, ``norms`` the norm of all weight gradients in each iteration.
    """

    def __init__(self, model, optimizer):
        super().__init__(model, optimizer)
        self.found, self.sizes, self.norms = {}, {}, []
        self.tapped, self.aside, self.distinct, self.backwards = [], {}, {}, 0

    def __enter__(self):
        self.originals = nn.Module.__call__, torch.autograd.grad, torch.autograd.backward
        call, grad, backward = self.originals

        def tapped(module, *args, **kwargs):
            return self.tap(module, call(module, *args, **kwargs))

        def noted(*args, **kwargs):
            self.backwards += 1
            return backward(*args, **kwargs)

        def apart(*args, **kwargs):
            before = [tensor.grad for _, tensor in self.tapped]
            for _, tensor in self.tapped:
                tensor.grad = None
            result = grad(*args, **kwargs)
            for (_, tensor), kept in zip(self.tapped, before, strict=True):
                if tensor.grad is not None:
                    self.aside.setdefault(tensor, []).append(tensor.grad.detach())
                tensor.grad = kept
            return result

        nn.Module.__call__, torch.autograd.grad, torch.autograd.backward = tapped, apart, noted
        return self

    def __exit__(self, *error):
        nn.Module.__call__, torch.autograd.grad, torch.autograd.backward = self.originals

    def tap(self, module, output):
        name = next((name for name, other in self.model.named_modules() if other is module), None)
        tensor = first(output)
        if name not in self.layers() or tensor is None or not tensor.requires_grad:
            return output
        kept = tensor.clone()
        kept.retain_grad()
        self.tapped.append((name, kept))
        # the network goes on with a copy: what it does in place does not touch what is measured
        return handed_on(output, tensor, kept.clone())

    def layers(self):
        """``{layer: {parameter name: parameter}}`` by the names of the parameters alone."""
        modules = dict(self.model.named_modules())
        found = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            original = re.fullmatch(r"(?:(.*)\.)?parametrizations\.(\w+)\.original\d*", name)
            owner, _, local = name.rpartition(".")
            owner, local = (original[1] or "", original[2]) if original else (owner, local)
            if owner in modules:
                found.setdefault(owner, {})[local, name] = parameter
        return found

    def read(self, scale=1.0, only=None, last=True, cleared=True):
        iteration = len(self.norms)
        wanted = {id(parameter) for parameter in (self.model.parameters() if only is None else only)}
        for layer, parameters in self.layers().items():
            own = [p for (local, _), p in parameters.items() if "bias" not in local and p.grad is not None]
            if own and all(id(p) in wanted for p in own):
                self.found[iteration, layer, "weight"] = statistics([p.grad for p in own])
                self.sizes[iteration, layer] = {id(p): p.numel() for p in own}
                self.distinct |= {id(p): wide(p.grad).clone() for p in own}
        own = {layer for layer, found in self.layers().items() if any(id(p) in wanted for p in found.values())}
        self.read_outputs(iteration, scale, own)
        for layer, tensor in self.tapped if cleared else ():
            if last or layer in own:
                tensor.grad = None
        if last:
            self.norms.append(torch.nn.utils.get_total_norm(self.distinct.values()).item())
            self.aside, self.distinct, self.backwards = {}, {}, 0

    def read_outputs(self, iteration, scale, own):
        arrived = {}
        for layer, tensor in self.tapped:
            if layer not in own:
                continue
            if self.backwards:
                gradients = [] if tensor.grad is None else [tensor.grad]
            else:
                gradients = [sum(self.aside[tensor])] if tensor in self.aside else []
            arrived.setdefault(layer, []).extend(gradient.detach() / scale for gradient in gradients)
        for layer, gradients in arrived.items():
            if any(gradient.numel() for gradient in gradients):  # the mean of nothing is no number
                self.found[iteration, layer, "output"] = statistics(gradients)

    def forget(self):
        self.tapped, self.aside, self.backwards = [], {}, 0


def first(output):
    if isinstance(output, torch.Tensor):
        return output
    return next((found for found in map(first, inside(output)) if found is not None), None)


def inside(output):
    if isinstance(output, dict):
        return list(output.values())
    if isinstance(output, (tuple, list)):
        return list(output)
    return list(vars(output).values()) if hasattr(output, "__dataclass_fields__") else []


def handed_on(output, tensor, replacement):
    """The same container with another first tensor in it."""
    if output is tensor:
        return replacement
    if isinstance(output, dict):
        new = copy.copy(output)
        new.update({key: handed_on(value, tensor, replacement) for key, value in output.items()})
        return new
    if isinstance(output, (tuple, list)):
        values = [handed_on(value, tensor, replacement) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    if hasattr(output, "__dataclass_fields__"):
        return type(output)(**{key: handed_on(value, tensor, replacement) for key, value in vars(output).items()})
    return output


def wide(gradient):
    dense = gradient.detach().to_dense()
    return dense.to(torch.complex128 if dense.is_complex() else torch.float64)


def statistics(gradients):
    sizes = torch.cat([wide(gradient).abs().flatten() for gradient in gradients]).numpy()
    # the largest value is taken out before squaring: 1e-200 has a square too
    peak = sizes.max()
    unit = peak if 0 < peak < np.inf else 1.0
    rms = unit * np.sqrt(np.square(sizes / unit).mean())
    return sizes.mean(), rms, peak, (sizes == 0).mean(), (~np.isfinite(sizes)).sum()


def bits(tensor):
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).tolist()
