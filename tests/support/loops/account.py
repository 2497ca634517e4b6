"""Loops that are written out: a case says of each backward pass what kind it is, and which kinds a step uses.

The same case runs plainly, under gradprobe's probes, and under a `Reference`, which believes what the case says,
and reads gradients by tensor hooks and from ``.grad``.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import defaultdict

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradprobe import GradientProbe
from gradprobe.script.execute import Script
from gradprobe.script.run import record_script
from support.loops.nets import layers_of

CASES = {}
RAN = []  # loops that ran in a script
ITERATIONS = 3


def case(function):
    CASES[function.__name__] = function
    return function


class Loop:
    """A case's surroundings.

    Attributes:
        is_reference: Whether memory-saving tricks are to be left out.
        losses: What the training came to.
    """

    is_reference = False

    def __init__(self):
        self.losses, self.models, self.histories = [], [], []

    @contextlib.contextmanager
    def recording(self, *pairs):
        """Around the training of models by their optimizers: ``(model, optimizer, ...)`` each."""
        self.models = [model for model, *_ in pairs]
        yield

    def kind(self, name):
        """The backward passes that follow are of this kind."""

    def used(self, model, *kinds):
        """An optimizer is about to step with what passes of these kinds have left in ``.grad``."""

    @contextlib.contextmanager
    def aside(self):
        """Around forward passes inside a derivative by torch.func."""
        yield

    def checkpoint(self, function, x, reentrant):
        if self.is_reference:
            return function(x)
        with warnings.catch_warnings():
            # inside another one it is called without gradients first, and says so
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            return checkpoint(function, x, use_reentrant=reentrant)

    def backward(self, loss, **how):
        self.losses.append(loss.detach())
        loss.backward(**how)


class Probed(Loop):
    """Under one probe for each model."""

    @contextlib.contextmanager
    def recording(self, *pairs):
        self.models = [model for model, *_ in pairs]
        with contextlib.ExitStack() as stack:
            probes = [
                stack.enter_context(GradientProbe(model, optimizer=list(optimizers), iterations=ITERATIONS))
                for model, *optimizers in pairs
            ]
            yield
        self.histories = [probe.history for probe in probes]


def as_script(name, folder):
    """Run a case as an unmodified script under ``gradprobe run``, to its end: its loop, with the histories."""
    file = folder / "train.py"
    begin = "import torch\nfrom support.loops.account import CASES, RAN, Loop\ntorch.manual_seed(0)\n"
    file.write_text(f"{begin}RAN.append(Loop())\nCASES[{name!r}](RAN[-1])\n")
    recorded = record_script(Script(str(file)), ITERATIONS, keep_going=True, every=True)
    assert recorded.ending.code == 0, recorded.ending
    loop = RAN.pop()
    loop.histories = [model.history for model in recorded.models]
    return loop


class Reference(Loop):
    """Believes the case.

    Attributes:
        found: For each model ``{(iteration, layer, of): mean absolute value}``.
    """

    is_reference = True

    @contextlib.contextmanager
    def recording(self, *pairs):
        self.models = [model for model, *_ in pairs]
        self.found = [{} for _ in self.models]
        self.turn = [0 for _ in self.models]
        self.gradients, self.name, self.is_aside = [], None, False
        for number, model in enumerate(self.models):
            for layer, module in layers_of(model).items():
                module.register_forward_hook(self.tapping(number, layer))
        yield

    def tapping(self, number, layer):
        def hook(module, args, output):
            first = output[0] if isinstance(output, tuple) else output
            if self.is_aside or not first.requires_grad:
                return None
            tap, came = first.clone(), defaultdict(list)
            tap.register_hook(lambda gradient: came[self.name].append(gradient.detach()))
            self.gradients.append((number, layer, came))
            return (tap.clone(), *output[1:]) if isinstance(output, tuple) else tap.clone()

        return hook

    def kind(self, name):
        self.name = name

    @contextlib.contextmanager
    def aside(self):
        self.is_aside = True
        yield
        self.is_aside = False

    def used(self, model, *kinds):
        number = next(i for i, one in enumerate(self.models) if one is model)
        turn, found = self.turn[number], self.found[number]
        for layer, module in layers_of(model).items():
            summed = [
                sum(gradient for kind in kinds for gradient in came[kind])
                for of, name, came in self.gradients
                if (of, name) == (number, layer) and any(came[kind] for kind in kinds)
            ]
            if summed:
                found[turn, layer, "output"] = torch.cat([one.flatten() for one in summed]).abs().mean().item()
            weights = [p for local, p in module.named_parameters(recurse=False) if "bias" not in local]
            own = [p.grad for p in weights if p.grad is not None and p.numel()]
            if own:
                found[turn, layer, "weight"] = torch.cat([one.flatten() for one in own]).abs().mean().item()
        self.turn[number] += 1
        for of, _, came in self.gradients:
            if of == number:
                came.clear()


def mlp(*widths, seed=0, activation=nn.Tanh):
    torch.manual_seed(seed)
    layers = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), activation())]
    return nn.Sequential(*layers[:-1]).double()


def normal(*shape):
    """The numbers that float32 would have drawn."""
    return torch.randn(*shape).double()


def sgd(model, rate=0.05):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], rate)
