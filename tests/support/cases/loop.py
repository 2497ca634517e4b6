"""What every case is made of and run in."""

from __future__ import annotations

import contextlib
import functools
import itertools

import torch
from torch import nn
from torch.optim import SGD

from support.cases.recorder import first

# --- cases and their loops ------------------------------------------------------------------------------------

CASES = {}


def case(function):
    """A case whose point is the loop: ``function(loop)`` trains."""
    CASES[function.__name__] = function
    return function


def plain(function):
    """A case whose point is the model: ``function()`` returns what `Loop.fit` takes."""
    CASES[function.__name__] = lambda loop: loop.fit(*function())
    return function


def variants(**values):
    """Cases that differ in one value, by their names: ``function(loop, value)`` trains."""

    def named(function):
        for name, value in values.items():
            CASES[name] = lambda loop, value=value: function(loop, value)
        return function

    return named


def run(name, attach):
    """One case from its seed; ``attach(model, optimizer)`` makes what records it."""
    torch.manual_seed(0)
    loop = Loop(attach)
    with loop.ends, threads(1):
        CASES[name](loop)
    loop.loss = None
    return loop


@contextlib.contextmanager
def threads(count):
    """With so many threads; more than one of torch's add up in another order each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sgd(model, lr=0.05):
    return SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr)


def data(*shape, count=3, dtype=torch.float64):
    return [torch.randn(*shape, dtype=torch.float64).to(dtype) for _ in range(count)]


def tokens(high, *shape):
    return [torch.randint(high, shape) for _ in range(3)]


def squared(output):
    tensor = first(output)
    return (tensor.abs().square() + 0.3 * tensor.real).mean()


def ended_with_the_case(batches):
    """A case that raises leaves its record at once, not when its traceback is thrown away."""

    @functools.wraps(batches)
    def opened(loop, *how):
        return loop.ends.enter_context(contextlib.closing(batches(loop, *how)))

    return opened


class Loop:
    """What a case is run in: it keeps the records, and what the training came to."""

    def __init__(self, attach):
        self.attach = attach
        self.attached = []
        self.losses = []
        self.loss = None  # as in most loops, its graph lives until the next one is there
        self.ends = contextlib.ExitStack()

    def recording(self, model, optimizer=None):
        record = self.attach(model, optimizer)
        self.attached.append(record)
        return record

    def note(self, loss):
        self.losses.append(loss.detach().clone())

    def backward(self, loss, **how):
        loss.backward(**how)
        self.note(loss)
        self.loss = loss
        return loss

    def fit(self, model, inputs, objective=squared, optimizer=None):
        """The loop that everybody writes."""
        for x in self.steps(model, inputs, optimizer):
            self.backward(objective(model(x)))

    @ended_with_the_case
    def steps(self, model, inputs, optimizer=None):
        """The same around a body that leaves the gradients: ``for x in loop.steps(model, inputs): ...``."""
        optimizer = optimizer or sgd(model)
        with self.recording(model, optimizer) as record:
            for x in inputs:
                optimizer.zero_grad()
                yield x
                record.read()
                optimizer.step()

    @ended_with_the_case
    def changes(self, model, inputs):
        """The same around a body that changes the model ahead of an iteration; the record knows no optimizer."""
        with self.recording(model) as record:
            for iteration, x in enumerate(inputs):
                yield iteration
                optimizer = sgd(model)
                optimizer.zero_grad()
                self.backward(squared(model(x)))
                record.read()
                optimizer.step()


# --- what many cases share -------------------------------------------------------------------------------------


class Made(nn.Module):
    """A module from its children and a function of itself and the input."""

    def __init__(self, call, **children):
        super().__init__()
        self.call = call
        for name, child in children.items():
            setattr(self, name, child)
        self.double()

    def forward(self, x):
        return self.call(self, x)


def mlp(*widths):
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()
