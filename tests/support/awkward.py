"""A zoo of awkward models and training loops, and an independent record of their gradients.

Nothing of gradprobe is in here. A case builds a model and trains it for three iterations or more the way such
models are trained. One whose point is the model is `plain`; the others are functions of a `Loop`, and those that
write it out say ``record.read()`` where every gradient stands as the optimizer is about to use it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import itertools
import re
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parametrizations, parametrize
from torch.optim import LBFGS, SGD, Adam, SparseAdam
from torch.utils.checkpoint import checkpoint

MEASURES = ("mean_abs", "rms", "max_abs", "zero_fraction", "nonfinite")


class Bare:
    def __init__(self, model, optimizer):
        self.model = model

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read(self, scale=1.0, only=None, last=True):
        """Every gradient stands as the optimizer is about to use it; ``scale`` is on the outputs still.

        Of several optimizers, each uses ``only`` its own parameters; the ``last`` one ends the iteration.
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

    def read(self, scale=1.0, only=None, last=True):
        iteration = len(self.norms)
        wanted = {id(parameter) for parameter in (self.model.parameters() if only is None else only)}
        for layer, parameters in self.layers().items():
            own = [p for (local, _), p in parameters.items() if "bias" not in local and p.grad is not None]
            if own and all(id(p) in wanted for p in own):
                self.found[iteration, layer, "weight"] = statistics([p.grad for p in own])
                self.sizes[iteration, layer] = {id(p): p.numel() for p in own}
                self.distinct |= {id(p): wide(p.grad).clone() for p in own}
        if last:
            self.norms.append(torch.nn.utils.get_total_norm(self.distinct.values()).item())
            self.read_outputs(iteration, scale)

    def read_outputs(self, iteration, scale):
        arrived = {}
        for layer, tensor in self.tapped:
            if self.backwards:
                gradients = [] if tensor.grad is None else [tensor.grad]
            else:
                gradients = self.aside.get(tensor, [])
            arrived.setdefault(layer, []).extend(gradient.detach() / scale for gradient in gradients)
            tensor.grad = None
        for layer, gradients in arrived.items():
            if any(gradient.numel() for gradient in gradients):  # the mean of nothing is no number
                self.found[iteration, layer, "output"] = statistics(gradients)
        self.aside, self.distinct, self.backwards = {}, {}, 0

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


# --- shared parameters and modules -----------------------------------------------------------------------------


@plain
def tied_embedding_and_head():
    net = Made(lambda s, x: s.head(torch.tanh(s.mix(s.embed(x)))), embed=nn.Embedding(9, 4), mix=nn.Linear(4, 4))
    net.head = nn.Linear(4, 9, bias=False).double()
    net.head.weight = net.embed.weight
    return net, tokens(9, 2, 5), lambda y: F.cross_entropy(y.flatten(0, 1), torch.arange(10) % 9)


@plain
def embedding_weight_used_again_as_a_function():
    net = Made(lambda s, x: F.linear(s.mix(s.embed(x)), s.embed.weight), embed=nn.Embedding(9, 4), mix=mlp(4, 4))
    return net, tokens(9, 2, 5)


@plain
def module_called_three_times():
    net = Made(lambda s, x: s.b(s.a(torch.tanh(s.a(torch.tanh(s.a(x)))))), a=nn.Linear(4, 4), b=nn.Linear(4, 1))
    return net, data(6, 4)


@plain
def module_called_on_different_sizes():
    net = Made(lambda s, x: s.a(x).sum() + s.a(s.b(x)[:2]).square().sum(), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    return net, data(6, 4)


@plain
def module_under_two_names():
    net = Made(lambda s, x: s.again(torch.tanh(s.first(x))), first=nn.Linear(4, 4))
    net.again = net.first
    return net, data(6, 4)


@plain
def siamese():
    net = Made(lambda s, x: s.tower(x[0]) - s.tower(x[1]), tower=mlp(4, 5, 2))
    return net, data(2, 6, 4)


# --- in place --------------------------------------------------------------------------------------------------


@plain
def inplace_relu():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True))
    return net.double(), data(2, 1, 7, 7)


def added_in_place(net, x):
    x = net.a(x)
    y = net.norm(net.b(x))
    y += x
    return F.relu_(y)


@plain
def inplace_residual():
    return Made(added_in_place, a=nn.Linear(4, 4), b=nn.Linear(4, 4), norm=nn.BatchNorm1d(4)), data(6, 4)


@plain
def inplace_dropout_and_scale():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.4, inplace=True), nn.ELU(inplace=True), nn.Linear(5, 2))
    return net.double(), data(6, 4)


def view_of_an_output_changed(net, x):
    y = net.a(x)
    y[:, :2].mul_(3.0)
    y.view(-1)[0] = 0.0
    return net.b(y)


@plain
def inplace_on_a_view_of_an_output():
    return Made(view_of_an_output_changed, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), data(6, 4)


@plain
def layer_whose_output_is_a_view_changed_in_place():
    class Transposed(nn.Linear):
        def forward(self, x):
            return super().forward(x).t()

    return Made(lambda s, x: s.b(F.relu_(s.a(x)).t()), a=Transposed(4, 5), b=nn.Linear(5, 2)), data(6, 4)


def attention_added_in_place(net, x):
    x = net.first(x)
    y = net.attention(x, x, x, need_weights=False)[0]
    y += x
    return y


@plain
def attention_output_changed_in_place():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    return Made(attention_added_in_place, first=nn.Linear(4, 4), attention=attention), data(2, 3, 4)


@plain
def chunks_of_an_output():
    def gated(net, x):
        value, gate = net.a(x).chunk(2, dim=-1)
        return net.b(value * gate.sigmoid())

    return Made(gated, a=nn.Linear(4, 6), b=nn.Linear(3, 2)), data(6, 4)


# --- recurrent and attention -----------------------------------------------------------------------------------


@plain
def lstm():
    return Made(lambda s, x: s.head(s.rnn(x)[0][:, -1]), rnn=nn.LSTM(3, 4), head=nn.Linear(4, 2)), data(5, 2, 3)


@plain
def lstm_last_state_only():
    net = Made(lambda s, x: s.head(s.rnn(x)[1][0][-1]), rnn=nn.LSTM(3, 4, 2, dropout=0.3), head=nn.Linear(4, 2))
    return net, data(5, 2, 3)


@plain
def gru_bidirectional_two_layers():
    return nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True).double(), data(2, 5, 3)


@plain
def lstm_with_projection():
    return Made(lambda s, x: s.rnn(x), rnn=nn.LSTM(3, 5, proj_size=2)), data(5, 2, 3)


@plain
def lstm_over_a_packed_sequence():
    def packed(net, x):
        return net.rnn(nn.utils.rnn.pack_padded_sequence(net.embed(x), [5, 3], batch_first=True))[0].data

    return Made(packed, embed=nn.Linear(3, 3), rnn=nn.LSTM(3, 4, batch_first=True)), data(2, 5, 3)


@plain
def cell_unrolled():
    def unrolled(net, x):
        state = torch.zeros(2, 4, dtype=x.dtype)
        for step in x:
            state = net.cell(step, state)
        return net.head(state)

    return Made(unrolled, cell=nn.GRUCell(3, 4), head=nn.Linear(4, 1)), data(5, 2, 3)


@plain
def attention_without_weights():
    net = Made(lambda s, x: s.attention(x, x, x, need_weights=False)[0], attention=nn.MultiheadAttention(4, 2))
    return net, data(5, 2, 4)


@plain
def attention_with_weights():
    net = Made(
        lambda s, x: s.attention(x, x, x, need_weights=True)[1],
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )
    return net, data(2, 5, 4)


@plain
def attention_with_other_key_sizes():
    net = Made(
        lambda s, x: s.attention(x, s.k(x), s.v(x))[0],
        attention=nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        k=nn.Linear(4, 3),
        v=nn.Linear(4, 5),
    )
    return net, data(5, 2, 4)


@plain
def transformer_encoder_layer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    return nn.Sequential(layer, nn.Linear(4, 2)).double(), data(2, 5, 4)


@plain
def transformer_decoder_layer():
    decoder = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, norm_first=True)
    net = Made(lambda s, x: s.decoder(x, s.memory(x)), memory=nn.Linear(4, 4), decoder=decoder)
    return net, data(5, 2, 4)


# --- outputs in containers -------------------------------------------------------------------------------------


@dataclass
class Answer:
    label: str
    logits: torch.Tensor
    aside: torch.Tensor | None = None


@dataclass
class ModelOutput(OrderedDict):
    """As in transformers: a dict and a dataclass at once; what is None is not in the dict."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    def __post_init__(self):
        for name in ("loss", "logits"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)

    def update(self, other):
        for key, value in other.items():
            self[key] = value
            setattr(self, key, value)


Pair = namedtuple("Pair", ["mean", "spread"])


class Wrapping(nn.Linear):
    """A layer that hands its output on in a container."""

    def __init__(self, wrap, *sizes):
        super().__init__(*sizes)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x))


@variants(
    dict_outputs=(lambda y: {"cache": None, "y": y, "z": 1}, lambda output: output["y"]),
    tuple_outputs=(lambda y: (y, y.detach()), lambda output: output[0]),
    list_outputs=(lambda y: [y, "name"], lambda output: output[0]),
    nested_outputs=(lambda y: (None, {"hidden": [None, (y,)]}, 3), lambda output: output[1]["hidden"][1][0]),
    namedtuple_outputs=(lambda y: Pair(y, None), lambda output: output.mean),
    dataclass_outputs=(lambda y: Answer("a", y), lambda output: output.logits),
    model_output_like=(lambda y: ModelOutput(logits=y), lambda output: output["logits"]),
)
def wrapped(loop, container):
    wrap, unwrap = container
    net = Made(lambda s, x: s.b(torch.tanh(unwrap(s.a(x)))), a=Wrapping(wrap, 4, 5), b=Wrapping(wrap, 5, 2))
    loop.fit(net, data(6, 4), lambda output: squared(unwrap(output)))


@plain
def first_tensor_unused_second_used():
    net = Made(lambda s, x: s.b(s.a(x)[1]), a=Wrapping(lambda y: (y * 2, y.square()), 4, 5), b=nn.Linear(5, 2))
    return net, data(6, 4)


# --- parametrizations ------------------------------------------------------------------------------------------


@plain
def weight_norm():
    return mlp(4, 5, 2).apply(lambda m: isinstance(m, nn.Linear) and parametrizations.weight_norm(m)), data(6, 4)


@plain
def weight_norm_of_old():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(
            nn.utils.weight_norm(nn.Conv1d(2, 3, 3).double()), nn.Tanh(), nn.Conv1d(3, 1, 3).double()
        )
    return net, data(2, 2, 9)


@plain
def spectral_norm():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Linear(5, 2)).double(), data(6, 4)


@plain
def orthogonal():
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 2)).double(), data(6, 4)


class LowRank(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(rows, 1)), nn.Parameter(torch.randn(1, columns))

    def forward(self, weight):
        return weight + self.left @ self.right


@plain
def parametrization_with_own_parameters():
    net = mlp(4, 5, 2)
    parametrize.register_parametrization(net[0], "weight", LowRank(5, 4).double())
    net[0].parametrizations.weight.original.requires_grad = False
    return net, data(6, 4)


@plain
def parametrized_bias():
    net = mlp(4, 5, 2)
    parametrize.register_parametrization(net[0], "bias", nn.Tanh())
    return net, data(6, 4)


@case
def parametrizations_cached(loop):
    net = Made(lambda s, x: s.a(torch.tanh(s.a(x))), a=parametrizations.weight_norm(nn.Linear(4, 4)))
    for x in loop.steps(net, data(6, 4)):
        with parametrize.cached():
            loss = squared(net(x))
        loop.backward(loss)


@case
def parametrized_before_the_probe_removed_in_the_run(loop):
    net = mlp(4, 5, 2)
    parametrizations.weight_norm(net[2])
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            parametrize.remove_parametrizations(net[2], "weight")


# --- sparse and complex ----------------------------------------------------------------------------------------


@plain
def sparse_embedding():
    net = Made(lambda s, x: s.head(s.embed(x)), embed=nn.Embedding(20, 4, sparse=True), head=nn.Linear(4, 2))
    return net, tokens(20, 3, 4)


@plain
def sparse_adam():
    net = nn.Sequential(nn.Embedding(20, 4, sparse=True)).double()
    return net, tokens(20, 3, 4), squared, SparseAdam(net.parameters(), 0.1)


@plain
def sparse_embedding_bag():
    net = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True, mode="sum"), nn.Linear(4, 2)).double()
    return net, tokens(20, 3, 4)


@case
def sparse_gradients_accumulated(loop):
    net = nn.Sequential(nn.Embedding(20, 4, sparse=True)).double()
    for _ in loop.steps(net, range(3), SGD(net.parameters(), 0.1)):
        for _ in range(3):
            loop.backward(squared(net(torch.randint(20, (2, 3)))))


@plain
def complex_parameters():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "complex modules are a new feature"
        net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).to(torch.complex128)
    return net, [torch.randn(6, 4, dtype=torch.complex128) for _ in range(3)]


@plain
def complex_and_real_mixed():
    def spectral(net, x):
        y = torch.fft.rfft(net.a(x))
        return net.c(torch.fft.irfft(y * net.b.weight, n=4))

    net = Made(spectral, a=nn.Linear(4, 4), c=nn.Linear(4, 2))
    net.b = nn.Module()
    net.b.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))
    return net, data(6, 4)


# --- parts that are not always reached -------------------------------------------------------------------------


@plain
def experts_unreached_in_some_iterations():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.turn = -1

        def forward(self, x):
            self.turn += 1
            return x + self.experts[self.turn % 3](x)

    return nn.Sequential(nn.Linear(4, 4), Mixture(), nn.Linear(4, 2)).double(), data(6, 4, count=5)


@plain
def router_sends_no_token():
    def routed(net, x):
        where = torch.arange(len(x)) % 2 if net.calls else torch.zeros(len(x), dtype=torch.long)
        net.calls += 1
        y = torch.zeros_like(x)
        for index, expert in enumerate(net.experts):
            y = y.index_add(0, (where == index).nonzero()[:, 0], expert(x[where == index]))
        return y

    net = Made(routed, experts=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
    net.calls = 0
    return net, data(6, 4)


@plain
def layer_never_called():
    return Made(lambda s, x: s.a(x), a=nn.Linear(4, 2), never=nn.Linear(3, 3)), data(6, 4)


@plain
def layer_without_a_path_to_the_loss():
    return Made(lambda s, x: (s.a(x), s.aside(x))[0], a=nn.Linear(4, 2), aside=nn.Linear(4, 3)), data(6, 4)


@plain
def detached_branch():
    net = Made(lambda s, x: s.c(s.a(x) + s.b(x).detach()), a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 1))
    return net, data(6, 4)


@plain
def stochastic_depth():
    def skipped(net, x):
        for block in net.blocks:
            x = x + torch.tanh(block(x)) if torch.rand(()) > 0.5 else x
        return net.head(x)

    blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    return Made(skipped, blocks=blocks, head=nn.Linear(4, 1)), data(6, 4, count=5)


@case
def average_by_deepcopy_in_the_run(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        target = copy.deepcopy(net)
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            with torch.no_grad():
                wanted = target(x)
            loop.backward((net(x) - wanted - 1).square().mean())
            record.read()
            optimizer.step()
            with torch.no_grad():
                for mean, new in zip(target.parameters(), net.parameters(), strict=True):
                    mean.lerp_(new, 0.5)


@case
def copy_trained_beside_the_original(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        twin = copy.deepcopy(net)
        for x in data(6, 4):
            squared(twin(10 * x)).backward()
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@plain
def teacher_inside_the_model():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.online, self.target = mlp(4, 5, 2), mlp(4, 5, 2).requires_grad_(False)

        def forward(self, x):
            return self.online(x) - self.target(x).detach()

    return Student(), data(6, 4)


@plain
def frozen_layers():
    net = mlp(4, 5, 5, 2)
    net[0].requires_grad_(False)
    net[2].requires_grad_(False)
    return net, data(6, 4)


@case
def frozen_in_the_run(loop):
    net = mlp(4, 5, 5, 2)
    for iteration in loop.changes(net, data(6, 4, count=4)):
        net[2].requires_grad_(iteration < 2)


@case
def frozen_in_the_run_with_old_gradients_left(loop):
    net = mlp(4, 5, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for iteration, x in enumerate(data(6, 4, count=4)):
            optimizer.zero_grad(set_to_none=False)
            net[2].requires_grad_(iteration < 2)
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@case
def unfrozen_in_the_run(loop):
    net = mlp(4, 5, 5, 2)
    net[0].requires_grad_(False)
    for iteration in loop.changes(net, data(6, 4, count=4)):
        net[0].requires_grad_(iteration >= 2)


@case
def module_added_in_the_run(loop):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            net.append(nn.Linear(4, 2).double())


@case
def head_replaced_in_the_run(loop):
    net = Made(lambda s, x: s.head(s.body(x)), body=nn.Linear(4, 4), head=nn.Linear(4, 2))
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            net.head = nn.Linear(4, 3).double()


@case
def parameter_replaced_in_the_run(loop):
    net = mlp(4, 5, 2)
    for iteration in loop.changes(net, data(6, 4, count=4)):
        if iteration == 2:
            net[0].weight = nn.Parameter(torch.randn(5, 4).double())


# --- other ways to call a model --------------------------------------------------------------------------------


@case
def functional_call(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        scaled = {name: parameter * 2 for name, parameter in net.named_parameters()}
        loop.backward(squared(torch.func.functional_call(net, scaled, (x,))))


@case
def inner_step_of_meta_learning(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        named = dict(net.named_parameters())
        inner = torch.autograd.grad(squared(net(x)), list(named.values()), create_graph=True)
        fast = {name: p - 0.1 * g for (name, p), g in zip(named.items(), inner, strict=True)}
        loop.backward(squared(torch.func.functional_call(net, fast, (x,))))


@variants(frozen_batchnorm=True, frozen_batchnorm_without_gradients=False)
def batchnorm_in_eval(loop, gradients):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()
    net[1].eval().requires_grad_(gradients)
    loop.fit(net, data(6, 4))


@variants(
    no_grad_passes_between=torch.no_grad,
    inference_mode_passes_between=torch.inference_mode,
    validation_pass_with_a_graph_never_used=contextlib.nullcontext,
)
def with_a_pass_between(loop, context):
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 2)).double()
    for x in loop.steps(net, data(6, 4)):
        with context():
            net.eval()
            squared(net(3 * x))
            net.train()
        loop.backward(squared(net(x)))
        with context():
            net(x[:2])


@plain
def keywords_only():
    class Keyed(nn.Linear):
        def forward(self, *, inputs, scale=2.0):
            return super().forward(inputs) * scale

    return Made(lambda s, x: s.b(inputs=s.a(inputs=x)), a=Keyed(4, 5), b=Keyed(5, 2)), data(6, 4)


@plain
def forward_bypassed():
    net = Made(lambda s, x: s.b(F.linear(x, s.a.weight, s.a.bias).relu()), a=nn.Linear(4, 5), b=nn.Linear(5, 2))
    return net, data(6, 4)


@plain
def own_autograd_function():
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.view_as(x)

        @staticmethod
        def backward(context, gradient):
            return -0.5 * gradient

    net = Made(lambda s, x: s.b(Reversed.apply(s.a(x))), a=nn.Linear(4, 5), b=nn.Linear(5, 2))
    return net, data(6, 4)


@variants(checkpointed_reentrant=True, checkpointed_not_reentrant=False)
def checkpointed(loop, reentrant):
    def forward(net, x):
        return net.b(checkpoint(net.block, net.a(x), use_reentrant=reentrant))

    loop.fit(Made(forward, a=nn.Linear(4, 4), block=mlp(4, 6, 4), b=nn.Linear(4, 2)), data(6, 4))


@case
def checkpointed_with_dropout_and_accumulation(loop):
    block = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 4))
    net = Made(lambda s, x: checkpoint(s.block, s.a(x), use_reentrant=True), a=nn.Linear(4, 4), block=block)
    for x in loop.steps(net, data(2, 6, 4)):
        for part in x:
            loop.backward(squared(net(part)))


# --- other loops -----------------------------------------------------------------------------------------------


@case
def two_probes_on_one_model(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as first_record, loop.recording(net[0]) as second_record:
        for x in data(6, 4):
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            first_record.read()
            second_record.read()
            optimizer.step()


@case
def one_probe_after_the_other(loop):
    net = mlp(4, 5, 2)
    for inputs in data(3, 6, 4, count=2):
        loop.fit(net, inputs)


@case
def left_by_an_exception(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with contextlib.suppress(ZeroDivisionError), loop.recording(net, optimizer) as record:
        for iteration, x in enumerate(data(6, 4, count=5)):
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            if iteration == 3:
                raise ZeroDivisionError
            record.read()
            optimizer.step()


@case
def batch_that_failed_and_was_skipped(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        with contextlib.suppress(RuntimeError):
            net[0](x)
            net(x[:, :3])
        loop.backward(squared(net(x)))


@case
def saved_in_the_run(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            torch.save(net, io.BytesIO())
            torch.save([net.state_dict(), optimizer.state_dict()], io.BytesIO())
            copy.deepcopy(optimizer)
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@case
def accumulation(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    for x in loop.steps(net, data(3, 6, 4), Adam(net.parameters(), 0.01)):
        for part in x:
            loop.backward(squared(net(part)) / 3)


@case
def gradients_never_cleared(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net, 0.001)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            loop.backward(squared(net(x)))
            record.read()
            optimizer.step()


@case
def gradients_cleared_to_zero(loop):
    net = mlp(4, 5, 2)
    net.aside = nn.Linear(4, 2).double()
    optimizer = sgd(net)
    net[0].weight.grad = torch.ones(5, 4).double()
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            optimizer.zero_grad(set_to_none=False)
            loop.backward(squared(net[2](net[0](x))))
            record.read()
            optimizer.step()


def one_by_one(first, second):
    first.backward(retain_graph=True)
    second.backward()


def cancelling(first, second):
    first.backward(retain_graph=True)
    (-first).backward(retain_graph=True)
    second.backward()


@variants(
    losses_added=lambda first, second: (first + second).backward(),
    losses_backward_one_by_one=one_by_one,
    losses_that_cancel=cancelling,
    losses_backward_together=lambda first, second: torch.autograd.backward([first, second]),
)
def several_losses(loop, backward):
    net = Made(lambda s, x: s.body(x), body=mlp(4, 5, 5), one=nn.Linear(5, 2), two=nn.Linear(5, 3))
    for x in loop.steps(net, data(6, 4)):
        hidden = net(x)
        backward(squared(net.one(hidden)), -2 * squared(net.two(hidden)))
        loop.note(hidden.sum())


@case
def backward_into_some_parameters_only(loop):
    net = mlp(4, 5, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        loop.backward(squared(net(x)), inputs=[net[2].weight, net[4].weight])


@case
def gradient_penalty(loop):
    net = mlp(4, 5, 1)
    for x in loop.steps(net, data(6, 4)):
        y = net(x.requires_grad_())
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loop.backward(y.mean() + (slope.norm(dim=1) - 1).square().mean())


@case
def gradient_penalty_on_another_forward(loop):
    net = mlp(4, 5, 1)
    for x in loop.steps(net, data(6, 4)):
        mixed = (x + torch.randn_like(x)).requires_grad_()
        (slope,) = torch.autograd.grad(net(mixed).sum(), mixed, create_graph=True)
        loop.backward(net(x).mean() + (slope.norm(dim=1) - 1).square().mean())


@case
def trained_by_autograd_grad(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            loss = squared(net(x))
            parameters = list(net.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            record.read()
            optimizer.step()
            loop.note(loss)


@case
def trained_by_autograd_grad_one_loss_at_a_time(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            y = net(x)
            parameters = list(net.parameters())
            one = torch.autograd.grad(y[:, 0].square().mean(), parameters, retain_graph=True)
            two = torch.autograd.grad(y[:, 1].mean(), parameters)
            for parameter, a, b in zip(parameters, one, two, strict=True):
                parameter.grad = a - (a * b).sum() / b.square().sum().clamp_min(1e-9) * b
            record.read()
            optimizer.step()
            loop.note(y.sum())


@variants(two_optimizers=False, two_optimizers_both_told=True)
def stepped_together(loop, told):
    net = mlp(4, 5, 2)
    optimizers = [SGD(net[0].parameters(), 0.1), Adam(net[2].parameters(), 0.01)]
    with loop.recording(net, optimizers if told else None) as record:
        for x in data(6, 4):
            net.zero_grad()
            loop.backward(squared(net(x)))
            record.read()
            for optimizer in optimizers:
                optimizer.step()


@case
def two_optimizers_both_told_in_turn(loop):
    net = Made(lambda s, x: s.judge(s.maker(x)), maker=mlp(3, 5, 4), judge=mlp(4, 5, 1))
    make, judge = Adam(net.maker.parameters(), 0.01), Adam(net.judge.parameters(), 0.01)
    with loop.recording(net, [make, judge]) as record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judge.zero_grad()
            loop.backward(net.judge(x).square().mean() - net.judge(net.maker(noise).detach()).mean())
            record.read(only=net.judge.parameters(), last=False)
            judge.step()
            make.zero_grad()
            loop.backward(net(noise).mean())
            record.read(only=net.maker.parameters())
            make.step()


@case
def adversaries_in_turn(loop):
    maker, judge = mlp(3, 5, 4), mlp(4, 5, 1)
    make, judged = Adam(maker.parameters(), 0.01), Adam(judge.parameters(), 0.01)
    with loop.recording(maker, make) as maker_record, loop.recording(judge, judged) as judge_record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judged.zero_grad()
            loop.backward(F.softplus(judge(maker(noise).detach())).mean() + F.softplus(-judge(x)).mean())
            judge_record.read()
            judged.step()
            make.zero_grad()
            loop.backward(F.softplus(-judge(maker(noise))).mean())
            maker_record.read()
            make.step()


@case
def adversary_frozen_in_the_turn_of_the_other(loop):
    maker, judge = mlp(3, 5, 4), mlp(4, 5, 1)
    make, judged = Adam(maker.parameters(), 0.01), Adam(judge.parameters(), 0.01)
    with loop.recording(maker, make) as maker_record, loop.recording(judge, judged) as judge_record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judge.requires_grad_(False)
            make.zero_grad()
            loop.backward(F.softplus(-judge(maker(noise))).mean())
            maker_record.read()
            make.step()
            judge.requires_grad_(True)
            judged.zero_grad()
            loop.backward(F.softplus(judge(maker(noise).detach())).mean() + F.softplus(-judge(x)).mean())
            judge_record.read()
            judged.step()


@case
def trained_on_adversarial_examples(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(squared(net(x)), x)
        loop.backward(squared(net((x + 0.1 * slope.sign()).detach())))


@case
def actor_and_critic_in_one_model(loop):
    net = Made(lambda s, x: (s.actor(x), s.critic(x)), actor=mlp(4, 5, 2), critic=mlp(4, 5, 1))
    actor, critic = SGD(net.actor.parameters(), 0.1), SGD(net.critic.parameters(), 0.1)
    with loop.recording(net, actor) as record:
        for x in data(6, 4):
            critic.zero_grad()
            loop.backward((net(x)[1] - x.sum()).square().mean())
            critic.step()
            critic.zero_grad()
            actor.zero_grad()
            action, value = net(x)
            loop.backward((action.log_softmax(1).mean(1, keepdim=True) * value.detach()).mean())
            record.read()
            actor.step()


@variants(
    sgd_with_a_closure=lambda parameters: SGD(parameters, 0.1),
    lbfgs_of_one_evaluation=lambda parameters: LBFGS(parameters, lr=0.1, max_iter=1),
    lbfgs_of_many_evaluations=lambda parameters: LBFGS(parameters, 0.1, max_iter=4, line_search_fn="strong_wolfe"),
)
def closures(loop, make):
    net = mlp(4, 5, 2)
    optimizer = make(net.parameters())
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            calls = []

            def closure(x=x, calls=calls):
                optimizer.zero_grad()
                loss = loop.backward(squared(net(x)))
                if not calls:  # the gradients that the optimizer begins with
                    record.read()
                calls.append(loss)
                return loss

            optimizer.step(closure)
            record.forget()


@case
def clipped_by_norm(loop):
    net = mlp(4, 5, 2)
    for x in loop.steps(net, data(6, 4)):
        loop.backward(squared(net(x)))
        clip_grad_norm_(net.parameters(), 1e-3)


@case
def clipped_by_value_and_decayed(loop):
    net = mlp(4, 5, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4):
            optimizer.zero_grad()
            loop.backward(squared(net(x)))
            clip_grad_value_(net.parameters(), 1e-2)
            record.read()
            optimizer.step()
            schedule.step()


@plain
def parameter_hooks_that_change_gradients():
    net = mlp(4, 5, 2)
    net[0].weight.register_hook(lambda gradient: gradient * 3)
    return net, data(6, 4)


@case
def optimizer_in_the_backward_pass(loop):
    net = mlp(4, 5, 2)
    steps = {parameter: SGD([parameter], 0.1) for parameter in net.parameters()}

    def now(parameter):
        steps[parameter].step()
        steps[parameter].zero_grad()

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(now)
    with loop.recording(net) as record:
        for x in data(6, 4):
            loop.backward(squared(net(x)))
            record.read()


@case
def sharpness_aware(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    for x in loop.steps(net, data(6, 4), optimizer):
        squared(net(x)).backward()
        moves = [0.05 * parameter.grad for parameter in net.parameters()]
        with torch.no_grad():
            for parameter, move in zip(net.parameters(), moves, strict=True):
                parameter.add_(move)
        optimizer.zero_grad()
        loop.backward(squared(net(x)))
        with torch.no_grad():
            for parameter, move in zip(net.parameters(), moves, strict=True):
                parameter.sub_(move)


@case
def backpropagation_through_time_truncated(loop):
    net = Made(None, rnn=nn.LSTM(3, 4), head=nn.Linear(4, 1))
    state = None
    for x in loop.steps(net, data(4, 2, 3, count=4)):
        y, state = net.rnn(x, state)
        loop.backward(squared(net.head(y)))
        state = tuple(part.detach() for part in state)


@case
def graph_kept_over_two_iterations(loop):
    net = mlp(4, 5, 2)
    optimizer = SGD(net.parameters(), 0.0)
    before = None
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            y = net(x)
            loop.backward(squared(y) + (0 if before is None else (y * before).mean()), retain_graph=True)
            before = y
            record.read()
            # lr 0 would still count as an in-place change of what the kept graph needs
            optimizer.param_groups[0]["params"] = []
            optimizer.step()
            optimizer.param_groups[0]["params"] = list(net.parameters())


@case
def forward_in_one_iteration_backward_in_the_next(loop):
    net = Made(lambda s, x: s.b(s.a(x).tanh()), a=nn.Linear(4, 4), b=nn.Linear(4, 2))
    extra = nn.Parameter(torch.ones(1).double())
    optimizer = SGD([extra], 0.1)
    waiting = None
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            net.zero_grad()
            y = net(x)
            if waiting is not None:
                (squared(waiting) * extra).sum().backward()
            waiting = y
            record.read()
            optimizer.step()
            loop.note(extra)


# --- precision -------------------------------------------------------------------------------------------------


@case
def scaled_loss(loop):
    net = mlp(4, 5, 2).float()
    optimizer = sgd(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    with loop.recording(net, optimizer) as record:
        for x in data(6, 4, dtype=torch.float32):
            optimizer.zero_grad()
            loss = squared(net(x))
            scale = scaler.get_scale()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            record.read(scale)
            scaler.step(optimizer)
            scaler.update()
            loop.note(loss)


@case
def autocast(loop):
    net = mlp(4, 5, 2).float()
    for x in loop.steps(net, data(6, 4, dtype=torch.float32)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = squared(net(x))
        loop.backward(loss)


@variants(float16=torch.float16, bfloat16=torch.bfloat16)
def halved(loop, dtype):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(75, 4)).to(dtype)
    loop.fit(net, data(4, 1, 7, 7, dtype=dtype), lambda y: y.float().square().mean())


@plain
def float16_sums_above_its_range():
    net = nn.Linear(4, 300, bias=False).half()
    return net, data(40, 4, dtype=torch.float16), lambda y: (y * 2000).float().sum(), sgd(net, 1e-6)


@plain
def subnormal_gradients():
    return mlp(4, 5, 2).float(), data(6, 4, dtype=torch.float32), lambda y: y.sum() * 1e-41


@plain
def float16_subnormal_gradients():
    net = nn.Linear(4, 2).half()
    return net, data(6, 4, dtype=torch.float16), lambda y: (y * 1e-7).sum()


@plain
def gradients_below_the_range_of_float32():
    return mlp(4, 5, 2), data(6, 4), lambda y: y.sum() * 1e-60


@plain
def gradients_above_the_range_of_float32():
    net = mlp(4, 5, 2)
    return net, data(6, 4), lambda y: y.sum() * 1e60, sgd(net, 1e-62)


@plain
def float32_squares_out_of_range():
    net = mlp(4, 5, 2).float()
    return net, data(6, 4, dtype=torch.float32), lambda y: y.sum() * 1e30, sgd(net, 1e-32)


@plain
def nan_in_one_iteration():
    inputs = data(6, 4, count=4)
    inputs[3][0, 0] = float("nan")
    return mlp(4, 5, 2), inputs


@plain
def infinite_gradients():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    return net, data(6, 4), lambda y: (y[0] * float("inf")).sum() + y[1:].mean()


@plain
def dead_relu():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    nn.init.constant_(net[0].bias, -100.0)
    return net, data(6, 4)


@plain
def half_dead_relu():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    nn.init.zeros_(net[0].bias)
    return net, data(6, 4)


@plain
def two_hundred_layers():
    layers = [layer for _ in range(200) for layer in (nn.Linear(3, 3), nn.Tanh())]
    return nn.Sequential(*layers).double(), data(4, 3), lambda y: y.sum() * 1e20


# --- who owns what, and what it is called ----------------------------------------------------------------------


@plain
def parameters_of_the_root():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4).double())
            self.bias = nn.Parameter(torch.zeros(4).double())
            self.inner = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.inner(x) * self.scale + self.bias

    return Root(), data(6, 4)


@plain
def parameter_lists_and_dicts():
    def forward(net, x):
        for weight in net.weights:
            x = torch.tanh(x @ weight)
        return net.heads["last"](x @ net.table["mix"])

    weights = nn.ParameterList(torch.randn(4, 4) for _ in range(3))
    table = nn.ParameterDict({"mix": torch.randn(4, 4), "unused": torch.randn(2)})
    heads = nn.ModuleDict({"last": nn.Linear(4, 2), "other": nn.Linear(4, 3)})
    return Made(forward, weights=weights, table=table, heads=heads), data(6, 4)


@plain
def numbers_nan_and_unicode_as_names():
    net = nn.Sequential(
        OrderedDict({"0": nn.Linear(4, 4), "nan": nn.Linear(4, 4), "Größe 層": nn.Linear(4, 3), "None": mlp(3, 2)})
    )
    return net.double(), data(6, 4)


@plain
def parameter_handed_out_as_output():
    class Gives(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return self.weight

    return Made(lambda s, x: x @ s.given(x), given=Gives()), data(6, 4)


@plain
def layer_that_returns_its_input():
    class Passing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x

    return Made(lambda s, x: s.b(s.passing(s.a(x))), a=nn.Linear(4, 4), passing=Passing(), b=mlp(4, 2)), data(6, 4)


@plain
def scalar_outputs():
    class Energy(nn.Linear):
        def forward(self, x):
            return super().forward(x).square().mean()

    return Made(lambda s, x: s.a(x) + s.b(x), a=Energy(4, 3), b=Energy(4, 2)), data(6, 4), lambda y: y


@plain
def empty_batches():
    inputs = data(6, 4, count=4)
    inputs[1] = inputs[1][:0]
    return mlp(4, 5, 2), inputs, lambda y: y.square().sum()


@plain
def outputs_without_elements():
    net = Made(lambda s, x: s.a(x).sum() + s.b(x[:0]).sum(), a=nn.Linear(4, 2), b=nn.Linear(4, 3))
    return net, data(6, 4), lambda y: y


@plain
def integer_inputs():
    net = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)).double()
    return net, tokens(7, 5, 3)


@plain
def normalisations():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(5),
        nn.RMSNorm(5),
        nn.PReLU(4),
    )
    return net.double(), data(3, 2, 7, 5 + 2), lambda y: y.square().mean() + (y[:, :2] ** 3).mean()


@plain
def convolutions_of_all_dimensions():
    def forward(net, x):
        y = net.one(x).unsqueeze(1)
        z = net.two(y).unsqueeze(1)
        return net.back3(net.three(z)).mean(1), net.back2(net.two(y)), net.back1(net.one(x))

    net = Made(
        forward,
        one=nn.Conv1d(2, 5, 3, padding=1),
        two=nn.Conv2d(1, 3, 3, padding=1),
        three=nn.Conv3d(1, 2, 3, padding=1, groups=1),
        back1=nn.ConvTranspose1d(5, 2, 2),
        back2=nn.ConvTranspose2d(3, 1, 2, stride=2),
        back3=nn.ConvTranspose3d(2, 1, 2),
    )
    return net, data(2, 2, 6), lambda output: sum(squared(y) for y in output)


@plain
def bilinear_and_distance():
    net = Made(
        lambda s, x: s.pair(s.a(x), s.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3), pair=nn.Bilinear(3, 3, 2)
    )
    return net, data(6, 4)


@plain
def lazy_layers_after_their_first_batch():
    net = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2)).double()
    net(torch.ones(2, 4).double())
    return net, data(6, 4)


@plain
def channels_last_and_not_contiguous():
    net = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        .double()
        .to(memory_format=torch.channels_last)
    )
    return net, [x.to(memory_format=torch.channels_last).transpose(2, 3) for x in data(2, 2, 7, 7)]


@plain
def expanded_gradients():
    return mlp(4, 5, 2), data(6, 4), lambda y: y.sum() * 0.125


def bits(tensor):
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).tolist()
