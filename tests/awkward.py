"""A zoo of awkward models and training loops, and an independent record of their gradients.

Nothing of gradprobe is in here. A case is a function of a `Loop`: it builds a model and trains it for three
iterations or more the way such models are trained, and says ``taken.read()`` where every gradient stands as the
optimizer is about to use it.
"""

from __future__ import annotations

import contextlib
import copy
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
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Loop:
    """What a case is run in: it makes the attached and keeps what the training came to."""

    def __init__(self, attach):
        self.attach = attach
        self.attached = []
        self.losses = []

    def recording(self, model, optimizer=None):
        taken = self.attach(model, optimizer)
        self.attached.append(taken)
        return taken

    def note(self, loss):
        self.losses.append(loss.detach().clone())


def run(name, attach):
    """One case from its seed, under a attach."""
    torch.manual_seed(0)
    loop = Loop(attach)
    CASES[name](loop)
    return loop


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


# --- what many cases share -------------------------------------------------------------------------------------


def sgd(model, lr=0.05):
    return SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr)


def data(*shape, count=3, dtype=torch.float64):
    return [torch.randn(*shape, dtype=torch.float64).to(dtype) for _ in range(count)]


def squared(output):
    tensor = first(output)
    return (tensor.abs().square() + 0.3 * tensor.real).mean()


def fit(loop, model, inputs, objective=squared, optimizer=None):
    """The loop that everybody writes."""
    optimizer = optimizer or sgd(model)
    with loop.recording(model, optimizer) as taken:
        for x in inputs:
            optimizer.zero_grad()
            loss = objective(model(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


def by_hand(loop, model, inputs, before=lambda iteration: None):
    """The same without telling the taken of the optimizer; `before` changes something ahead of an iteration."""
    with loop.recording(model) as taken:
        for iteration, x in enumerate(inputs):
            before(iteration)
            optimizer = sgd(model)
            optimizer.zero_grad()
            loss = squared(model(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


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


@case
def tied_embedding_and_head(loop):
    net = Made(lambda s, x: s.head(torch.tanh(s.mix(s.embed(x)))), embed=nn.Embedding(9, 4), mix=nn.Linear(4, 4))
    net.head = nn.Linear(4, 9, bias=False).double()
    net.head.weight = net.embed.weight
    tokens = [torch.randint(9, (2, 5)) for _ in range(3)]
    fit(loop, net, tokens, lambda y: F.cross_entropy(y.flatten(0, 1), torch.arange(10) % 9))


@case
def embedding_weight_used_again_as_a_function(loop):
    net = Made(lambda s, x: F.linear(s.mix(s.embed(x)), s.embed.weight), embed=nn.Embedding(9, 4), mix=mlp(4, 4))
    fit(loop, net, [torch.randint(9, (2, 5)) for _ in range(3)])


@case
def module_called_three_times(loop):
    net = Made(lambda s, x: s.b(s.a(torch.tanh(s.a(torch.tanh(s.a(x)))))), a=nn.Linear(4, 4), b=nn.Linear(4, 1))
    fit(loop, net, data(6, 4))


@case
def module_called_on_different_sizes(loop):
    net = Made(lambda s, x: s.a(x).sum() + s.a(s.b(x)[:2]).square().sum(), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    fit(loop, net, data(6, 4))


@case
def module_under_two_names(loop):
    net = Made(lambda s, x: s.again(torch.tanh(s.first(x))), first=nn.Linear(4, 4))
    net.again = net.first
    fit(loop, net, data(6, 4))


@case
def siamese(loop):
    net = Made(lambda s, x: s.tower(x[0]) - s.tower(x[1]), tower=mlp(4, 5, 2))
    fit(loop, net, data(2, 6, 4))


# --- in place --------------------------------------------------------------------------------------------------


@case
def inplace_relu(loop):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True))
    fit(loop, net.double(), data(2, 1, 7, 7))


def added_in_place(net, x):
    x = net.a(x)
    y = net.norm(net.b(x))
    y += x
    return F.relu_(y)


@case
def inplace_residual(loop):
    fit(loop, Made(added_in_place, a=nn.Linear(4, 4), b=nn.Linear(4, 4), norm=nn.BatchNorm1d(4)), data(6, 4))


@case
def inplace_dropout_and_scale(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.4, inplace=True), nn.ELU(inplace=True), nn.Linear(5, 2))
    fit(loop, net.double(), data(6, 4))


def view_of_an_output_changed(net, x):
    y = net.a(x)
    y[:, :2].mul_(3.0)
    y.view(-1)[0] = 0.0
    return net.b(y)


@case
def inplace_on_a_view_of_an_output(loop):
    fit(loop, Made(view_of_an_output_changed, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), data(6, 4))


@case
def layer_whose_output_is_a_view_changed_in_place(loop):
    class Transposed(nn.Linear):
        def forward(self, x):
            return super().forward(x).t()

    fit(loop, Made(lambda s, x: s.b(F.relu_(s.a(x)).t()), a=Transposed(4, 5), b=nn.Linear(5, 2)), data(6, 4))


def attention_added_in_place(net, x):
    x = net.first(x)
    y = net.attention(x, x, x, need_weights=False)[0]
    y += x
    return y


@case
def attention_output_changed_in_place(loop):
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    fit(loop, Made(attention_added_in_place, first=nn.Linear(4, 4), attention=attention), data(2, 3, 4))


@case
def chunks_of_an_output(loop):
    def gated(net, x):
        value, gate = net.a(x).chunk(2, dim=-1)
        return net.b(value * gate.sigmoid())

    fit(loop, Made(gated, a=nn.Linear(4, 6), b=nn.Linear(3, 2)), data(6, 4))


# --- recurrent and attention -----------------------------------------------------------------------------------


@case
def lstm(loop):
    fit(
        loop, Made(lambda s, x: s.head(s.rnn(x)[0][:, -1]), rnn=nn.LSTM(3, 4), head=nn.Linear(4, 2)), data(5, 2, 3)
    )


@case
def lstm_last_state_only(loop):
    net = Made(lambda s, x: s.head(s.rnn(x)[1][0][-1]), rnn=nn.LSTM(3, 4, 2, dropout=0.3), head=nn.Linear(4, 2))
    fit(loop, net, data(5, 2, 3))


@case
def gru_bidirectional_two_layers(loop):
    fit(loop, nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True).double(), data(2, 5, 3))


@case
def lstm_with_projection(loop):
    fit(loop, Made(lambda s, x: s.rnn(x), rnn=nn.LSTM(3, 5, proj_size=2)), data(5, 2, 3))


@case
def lstm_over_a_packed_sequence(loop):
    def packed(net, x):
        return net.rnn(nn.utils.rnn.pack_padded_sequence(net.embed(x), [5, 3], batch_first=True))[0].data

    fit(loop, Made(packed, embed=nn.Linear(3, 3), rnn=nn.LSTM(3, 4, batch_first=True)), data(2, 5, 3))


@case
def cell_unrolled(loop):
    def unrolled(net, x):
        state = torch.zeros(2, 4, dtype=x.dtype)
        for step in x:
            state = net.cell(step, state)
        return net.head(state)

    fit(loop, Made(unrolled, cell=nn.GRUCell(3, 4), head=nn.Linear(4, 1)), data(5, 2, 3))


@case
def attention_without_weights(loop):
    net = Made(lambda s, x: s.attention(x, x, x, need_weights=False)[0], attention=nn.MultiheadAttention(4, 2))
    fit(loop, net, data(5, 2, 4))


@case
def attention_with_weights(loop):
    net = Made(
        lambda s, x: s.attention(x, x, x, need_weights=True)[1],
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )
    fit(loop, net, data(2, 5, 4))


@case
def attention_with_other_key_sizes(loop):
    net = Made(
        lambda s, x: s.attention(x, s.k(x), s.v(x))[0],
        attention=nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        k=nn.Linear(4, 3),
        v=nn.Linear(4, 5),
    )
    fit(loop, net, data(5, 2, 4))


@case
def transformer_encoder_layer(loop):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    fit(loop, nn.Sequential(layer, nn.Linear(4, 2)).double(), data(2, 5, 4))


@case
def transformer_decoder_layer(loop):
    decoder = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, norm_first=True)
    net = Made(lambda s, x: s.decoder(x, s.memory(x)), memory=nn.Linear(4, 4), decoder=decoder)
    fit(loop, net, data(5, 2, 4))


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


def wrapped(loop, wrap, unwrap):
    net = Made(lambda s, x: s.b(torch.tanh(unwrap(s.a(x)))), a=Wrapping(wrap, 4, 5), b=Wrapping(wrap, 5, 2))
    fit(loop, net, data(6, 4), lambda output: squared(unwrap(output)))


@case
def dict_outputs(loop):
    wrapped(loop, lambda y: {"cache": None, "y": y, "z": 1}, lambda output: output["y"])


@case
def tuple_outputs(loop):
    wrapped(loop, lambda y: (y, y.detach()), lambda output: output[0])


@case
def list_outputs(loop):
    wrapped(loop, lambda y: [y, "name"], lambda output: output[0])


@case
def nested_outputs(loop):
    wrapped(loop, lambda y: (None, {"hidden": [None, (y,)]}, 3), lambda output: output[1]["hidden"][1][0])


@case
def namedtuple_outputs(loop):
    wrapped(loop, lambda y: Pair(y, None), lambda output: output.mean)


@case
def dataclass_outputs(loop):
    wrapped(loop, lambda y: Answer("a", y), lambda output: output.logits)


@case
def model_output_like(loop):
    wrapped(loop, lambda y: ModelOutput(logits=y), lambda output: output["logits"])


@case
def first_tensor_unused_second_used(loop):
    net = Made(lambda s, x: s.b(s.a(x)[1]), a=Wrapping(lambda y: (y * 2, y.square()), 4, 5), b=nn.Linear(5, 2))
    fit(loop, net, data(6, 4))


# --- parametrizations ------------------------------------------------------------------------------------------


@case
def weight_norm(loop):
    fit(
        loop,
        mlp(4, 5, 2).apply(lambda m: isinstance(m, nn.Linear) and parametrizations.weight_norm(m)),
        data(6, 4),
    )


@case
def weight_norm_of_old(loop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(
            nn.utils.weight_norm(nn.Conv1d(2, 3, 3).double()), nn.Tanh(), nn.Conv1d(3, 1, 3).double()
        )
    fit(loop, net, data(2, 2, 9))


@case
def spectral_norm(loop):
    fit(loop, nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Linear(5, 2)).double(), data(6, 4))


@case
def orthogonal(loop):
    fit(loop, nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 2)).double(), data(6, 4))


class LowRank(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(rows, 1)), nn.Parameter(torch.randn(1, columns))

    def forward(self, weight):
        return weight + self.left @ self.right


@case
def parametrization_with_own_parameters(loop):
    net = mlp(4, 5, 2)
    parametrize.register_parametrization(net[0], "weight", LowRank(5, 4).double())
    net[0].parametrizations.weight.original.requires_grad = False
    fit(loop, net, data(6, 4))


@case
def parametrized_bias(loop):
    net = mlp(4, 5, 2)
    parametrize.register_parametrization(net[0], "bias", nn.Tanh())
    fit(loop, net, data(6, 4))


@case
def parametrizations_cached(loop):
    net = Made(lambda s, x: s.a(torch.tanh(s.a(x))), a=parametrizations.weight_norm(nn.Linear(4, 4)))
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            with parametrize.cached():
                loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def parametrized_before_the_probe_removed_in_the_run(loop):
    net = mlp(4, 5, 2)
    parametrizations.weight_norm(net[2])

    def before(iteration):
        if iteration == 2:
            parametrize.remove_parametrizations(net[2], "weight")

    by_hand(loop, net, data(6, 4, count=4), before)


# --- sparse and complex ----------------------------------------------------------------------------------------


@case
def sparse_embedding(loop):
    net = Made(lambda s, x: s.head(s.embed(x)), embed=nn.Embedding(20, 4, sparse=True), head=nn.Linear(4, 2))
    fit(loop, net, [torch.randint(20, (3, 4)) for _ in range(3)])


@case
def sparse_adam(loop):
    net = nn.Sequential(nn.Embedding(20, 4, sparse=True)).double()
    fit(loop, net, [torch.randint(20, (3, 4)) for _ in range(3)], optimizer=SparseAdam(net.parameters(), 0.1))


@case
def sparse_embedding_bag(loop):
    net = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True, mode="sum"), nn.Linear(4, 2)).double()
    fit(loop, net, [torch.randint(20, (3, 4)) for _ in range(3)])


@case
def sparse_gradients_accumulated(loop):
    net = nn.Sequential(nn.Embedding(20, 4, sparse=True)).double()
    optimizer = SGD(net.parameters(), 0.1)
    with loop.recording(net, optimizer) as taken:
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(3):
                loss = squared(net(torch.randint(20, (2, 3))))
                loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def complex_parameters(loop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "complex modules are a new feature"
        net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).to(torch.complex128)
    fit(loop, net, [torch.randn(6, 4, dtype=torch.complex128) for _ in range(3)])


@case
def complex_and_real_mixed(loop):
    def spectral(net, x):
        y = torch.fft.rfft(net.a(x))
        return net.c(torch.fft.irfft(y * net.b.weight, n=4))

    net = Made(spectral, a=nn.Linear(4, 4), c=nn.Linear(4, 2))
    net.b = nn.Module()
    net.b.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))
    fit(loop, net, data(6, 4))


# --- parts that are not always reached -------------------------------------------------------------------------


@case
def experts_unreached_in_some_iterations(loop):
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.turn = -1

        def forward(self, x):
            self.turn += 1
            return x + self.experts[self.turn % 3](x)

    fit(loop, nn.Sequential(nn.Linear(4, 4), Mixture(), nn.Linear(4, 2)).double(), data(6, 4, count=5))


@case
def router_sends_no_token(loop):
    def routed(net, x):
        where = torch.arange(len(x)) % 2 if net.calls else torch.zeros(len(x), dtype=torch.long)
        net.calls += 1
        y = torch.zeros_like(x)
        for index, expert in enumerate(net.experts):
            y = y.index_add(0, (where == index).nonzero()[:, 0], expert(x[where == index]))
        return y

    net = Made(routed, experts=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
    net.calls = 0
    fit(loop, net, data(6, 4))


@case
def layer_never_called(loop):
    fit(loop, Made(lambda s, x: s.a(x), a=nn.Linear(4, 2), never=nn.Linear(3, 3)), data(6, 4))


@case
def layer_without_a_path_to_the_loss(loop):
    fit(loop, Made(lambda s, x: (s.a(x), s.aside(x))[0], a=nn.Linear(4, 2), aside=nn.Linear(4, 3)), data(6, 4))


@case
def detached_branch(loop):
    net = Made(lambda s, x: s.c(s.a(x) + s.b(x).detach()), a=nn.Linear(4, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 1))
    fit(loop, net, data(6, 4))


@case
def stochastic_depth(loop):
    def skipped(net, x):
        for block in net.blocks:
            x = x + torch.tanh(block(x)) if torch.rand(()) > 0.5 else x
        return net.head(x)

    blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    fit(loop, Made(skipped, blocks=blocks, head=nn.Linear(4, 1)), data(6, 4, count=5))


@case
def average_by_deepcopy_in_the_run(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        target = copy.deepcopy(net)
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            with torch.no_grad():
                wanted = target(x)
            loss = (net(x) - wanted - 1).square().mean()
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)
            with torch.no_grad():
                for mean, new in zip(target.parameters(), net.parameters(), strict=True):
                    mean.lerp_(new, 0.5)


@case
def copy_trained_beside_the_original(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        twin = copy.deepcopy(net)
        for x in data(6, 4):
            squared(twin(10 * x)).backward()
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def teacher_inside_the_model(loop):
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.online, self.target = mlp(4, 5, 2), mlp(4, 5, 2).requires_grad_(False)

        def forward(self, x):
            return self.online(x) - self.target(x).detach()

    fit(loop, Student(), data(6, 4))


@case
def frozen_layers(loop):
    net = mlp(4, 5, 5, 2)
    net[0].requires_grad_(False)
    net[2].requires_grad_(False)
    fit(loop, net, data(6, 4))


@case
def frozen_in_the_run(loop):
    net = mlp(4, 5, 5, 2)
    by_hand(loop, net, data(6, 4, count=4), lambda i: net[2].requires_grad_(i < 2))


@case
def frozen_in_the_run_with_old_gradients_left(loop):
    net = mlp(4, 5, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for iteration, x in enumerate(data(6, 4, count=4)):
            optimizer.zero_grad(set_to_none=False)
            net[2].requires_grad_(iteration < 2)
            loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def unfrozen_in_the_run(loop):
    net = mlp(4, 5, 5, 2)
    net[0].requires_grad_(False)
    by_hand(loop, net, data(6, 4, count=4), lambda i: net[0].requires_grad_(i >= 2))


@case
def module_added_in_the_run(loop):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()

    def before(iteration):
        if iteration == 2:
            net.append(nn.Linear(4, 2).double())

    by_hand(loop, net, data(6, 4, count=4), before)


@case
def head_replaced_in_the_run(loop):
    net = Made(lambda s, x: s.head(s.body(x)), body=nn.Linear(4, 4), head=nn.Linear(4, 2))

    def before(iteration):
        if iteration == 2:
            net.head = nn.Linear(4, 3).double()

    by_hand(loop, net, data(6, 4, count=4), before)


@case
def parameter_replaced_in_the_run(loop):
    net = mlp(4, 5, 2)

    def before(iteration):
        if iteration == 2:
            net[0].weight = nn.Parameter(torch.randn(5, 4).double())

    by_hand(loop, net, data(6, 4, count=4), before)


# --- other ways to call a model --------------------------------------------------------------------------------


@case
def functional_call(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            scaled = {name: parameter * 2 for name, parameter in net.named_parameters()}
            loss = squared(torch.func.functional_call(net, scaled, (x,)))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def inner_step_of_meta_learning(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            named = dict(net.named_parameters())
            inner = torch.autograd.grad(squared(net(x)), list(named.values()), create_graph=True)
            fast = {name: p - 0.1 * g for (name, p), g in zip(named.items(), inner, strict=True)}
            loss = squared(torch.func.functional_call(net, fast, (x,)))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def frozen_batchnorm(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()
    net[1].eval()
    fit(loop, net, data(6, 4))


@case
def frozen_batchnorm_without_gradients(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()
    net[1].eval().requires_grad_(False)
    fit(loop, net, data(6, 4))


def with_a_pass_between(loop, context):
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.2), nn.Linear(5, 2)).double()
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            with context():
                net.eval()
                squared(net(3 * x))
                net.train()
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            with context():
                net(x[:2])
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def no_grad_passes_between(loop):
    with_a_pass_between(loop, torch.no_grad)


@case
def inference_mode_passes_between(loop):
    with_a_pass_between(loop, torch.inference_mode)


@case
def validation_pass_with_a_graph_never_used(loop):
    with_a_pass_between(loop, contextlib.nullcontext)


@case
def keywords_only(loop):
    class Keyed(nn.Linear):
        def forward(self, *, inputs, scale=2.0):
            return super().forward(inputs) * scale

    fit(loop, Made(lambda s, x: s.b(inputs=s.a(inputs=x)), a=Keyed(4, 5), b=Keyed(5, 2)), data(6, 4))


@case
def forward_bypassed(loop):
    net = Made(lambda s, x: s.b(F.linear(x, s.a.weight, s.a.bias).relu()), a=nn.Linear(4, 5), b=nn.Linear(5, 2))
    fit(loop, net, data(6, 4))


@case
def own_autograd_function(loop):
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.view_as(x)

        @staticmethod
        def backward(context, gradient):
            return -0.5 * gradient

    net = Made(lambda s, x: s.b(Reversed.apply(s.a(x))), a=nn.Linear(4, 5), b=nn.Linear(5, 2))
    fit(loop, net, data(6, 4))


def checkpointed(loop, **how):
    def forward(net, x):
        return net.b(checkpoint(net.block, net.a(x), **how))

    fit(loop, Made(forward, a=nn.Linear(4, 4), block=mlp(4, 6, 4), b=nn.Linear(4, 2)), data(6, 4))


@case
def checkpointed_reentrant(loop):
    checkpointed(loop, use_reentrant=True)


@case
def checkpointed_not_reentrant(loop):
    checkpointed(loop, use_reentrant=False)


@case
def checkpointed_with_dropout_and_accumulation(loop):
    block = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 4))
    net = Made(lambda s, x: checkpoint(s.block, s.a(x), use_reentrant=True), a=nn.Linear(4, 4), block=block)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(2, 6, 4):
            optimizer.zero_grad()
            for part in x:
                loss = squared(net(part))
                loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


# --- other loops -----------------------------------------------------------------------------------------------


@case
def two_probes_on_one_model(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as first_record, loop.recording(net[0]) as second_record:
        for x in data(6, 4):
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            first_record.read()
            second_record.read()
            optimizer.step()
            loop.note(loss)


@case
def one_probe_after_the_other(loop):
    net = mlp(4, 5, 2)
    for x in data(3, 6, 4, count=2):
        fit(loop, net, x)


@case
def left_by_an_exception(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with contextlib.suppress(ZeroDivisionError), loop.recording(net, optimizer) as taken:
        for iteration, x in enumerate(data(6, 4, count=5)):
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            if iteration == 3:
                raise ZeroDivisionError
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def batch_that_failed_and_was_skipped(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            with contextlib.suppress(RuntimeError):
                net[0](x)
                net(x[:, :3])
            loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def saved_in_the_run(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            torch.save(net, io.BytesIO())
            torch.save([net.state_dict(), optimizer.state_dict()], io.BytesIO())
            copy.deepcopy(optimizer)
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def accumulation(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    optimizer = Adam(net.parameters(), 0.01)
    with loop.recording(net, optimizer) as taken:
        for x in data(3, 6, 4):
            optimizer.zero_grad()
            for part in x:
                loss = squared(net(part)) / 3
                loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def gradients_never_cleared(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net, 0.001)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def gradients_cleared_to_zero(loop):
    net = mlp(4, 5, 2)
    net.aside = nn.Linear(4, 2).double()
    optimizer = sgd(net)
    net[0].weight.grad = torch.ones(5, 4).double()
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad(set_to_none=False)
            loss = squared(net[2](net[0](x)))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


def several_losses(loop, backward):
    net = Made(lambda s, x: s.body(x), body=mlp(4, 5, 5), one=nn.Linear(5, 2), two=nn.Linear(5, 3))
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            hidden = net(x)
            backward(squared(net.one(hidden)), -2 * squared(net.two(hidden)))
            taken.read()
            optimizer.step()
            loop.note(hidden.sum())


@case
def losses_added(loop):
    several_losses(loop, lambda first, second: (first + second).backward())


@case
def losses_backward_one_by_one(loop):
    def backward(first, second):
        first.backward(retain_graph=True)
        second.backward()

    several_losses(loop, backward)


@case
def losses_that_cancel(loop):
    def backward(first, second):
        first.backward(retain_graph=True)
        (-first).backward(retain_graph=True)
        second.backward()

    several_losses(loop, backward)


@case
def losses_backward_together(loop):
    several_losses(loop, lambda first, second: torch.autograd.backward([first, second]))


@case
def backward_into_some_parameters_only(loop):
    net = mlp(4, 5, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward(inputs=[net[2].weight, net[4].weight])
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def gradient_penalty(loop):
    net = mlp(4, 5, 1)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            x = x.requires_grad_()
            y = net(x)
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            loss = y.mean() + (slope.norm(dim=1) - 1).square().mean()
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def gradient_penalty_on_another_forward(loop):
    net = mlp(4, 5, 1)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            mixed = (x + torch.randn_like(x)).requires_grad_()
            (slope,) = torch.autograd.grad(net(mixed).sum(), mixed, create_graph=True)
            loss = net(x).mean() + (slope.norm(dim=1) - 1).square().mean()
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def trained_by_autograd_grad(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            loss = squared(net(x))
            parameters = list(net.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def trained_by_autograd_grad_one_loss_at_a_time(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            y = net(x)
            parameters = list(net.parameters())
            one = torch.autograd.grad(y[:, 0].square().mean(), parameters, retain_graph=True)
            two = torch.autograd.grad(y[:, 1].mean(), parameters)
            for parameter, a, b in zip(parameters, one, two, strict=True):
                parameter.grad = a - (a * b).sum() / b.square().sum().clamp_min(1e-9) * b
            taken.read()
            optimizer.step()
            loop.note(y.sum())


@case
def two_optimizers(loop):
    net = mlp(4, 5, 2)
    optimizers = [SGD(net[0].parameters(), 0.1), Adam(net[2].parameters(), 0.01)]
    with loop.recording(net) as taken:
        for x in data(6, 4):
            net.zero_grad()
            loss = squared(net(x))
            loss.backward()
            taken.read()
            for optimizer in optimizers:
                optimizer.step()
            loop.note(loss)


@case
def two_optimizers_both_told(loop):
    net = mlp(4, 5, 2)
    optimizers = [SGD(net[0].parameters(), 0.1), Adam(net[2].parameters(), 0.01)]
    with loop.recording(net, optimizers) as taken:
        for x in data(6, 4):
            net.zero_grad()
            loss = squared(net(x))
            loss.backward()
            taken.read()
            for optimizer in optimizers:
                optimizer.step()
            loop.note(loss)


@case
def two_optimizers_both_told_in_turn(loop):
    net = Made(lambda s, x: s.judge(s.maker(x)), maker=mlp(3, 5, 4), judge=mlp(4, 5, 1))
    make, judge = Adam(net.maker.parameters(), 0.01), Adam(net.judge.parameters(), 0.01)
    with loop.recording(net, [make, judge]) as taken:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judge.zero_grad()
            loss = net.judge(x).square().mean() - net.judge(net.maker(noise).detach()).mean()
            loss.backward()
            taken.read(only=net.judge.parameters(), last=False)
            judge.step()
            make.zero_grad()
            loss = net(noise).mean()
            loss.backward()
            taken.read(only=net.maker.parameters())
            make.step()
            loop.note(loss)


@case
def adversaries_in_turn(loop):
    maker, judge = mlp(3, 5, 4), mlp(4, 5, 1)
    make, judged = Adam(maker.parameters(), 0.01), Adam(judge.parameters(), 0.01)
    with loop.recording(maker, make) as maker_record, loop.recording(judge, judged) as judge_record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judged.zero_grad()
            loss = F.softplus(judge(maker(noise).detach())).mean() + F.softplus(-judge(x)).mean()
            loss.backward()
            judge_record.read()
            judged.step()
            make.zero_grad()
            loss = F.softplus(-judge(maker(noise))).mean()
            loss.backward()
            maker_record.read()
            make.step()
            loop.note(loss)


@case
def adversary_frozen_in_the_turn_of_the_other(loop):
    maker, judge = mlp(3, 5, 4), mlp(4, 5, 1)
    make, judged = Adam(maker.parameters(), 0.01), Adam(judge.parameters(), 0.01)
    with loop.recording(maker, make) as maker_record, loop.recording(judge, judged) as judge_record:
        for x, noise in zip(data(6, 4), data(6, 3), strict=True):
            judge.requires_grad_(False)
            make.zero_grad()
            loss = F.softplus(-judge(maker(noise))).mean()
            loss.backward()
            maker_record.read()
            make.step()
            judge.requires_grad_(True)
            judged.zero_grad()
            loss = F.softplus(judge(maker(noise).detach())).mean() + F.softplus(-judge(x)).mean()
            loss.backward()
            judge_record.read()
            judged.step()
            loop.note(loss)


@case
def trained_on_adversarial_examples(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(squared(net(x)), x)
            optimizer.zero_grad()
            loss = squared(net((x + 0.1 * slope.sign()).detach()))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def actor_and_critic_in_one_model(loop):
    net = Made(lambda s, x: (s.actor(x), s.critic(x)), actor=mlp(4, 5, 2), critic=mlp(4, 5, 1))
    actor, critic = SGD(net.actor.parameters(), 0.1), SGD(net.critic.parameters(), 0.1)
    with loop.recording(net, actor) as taken:
        for x in data(6, 4):
            critic.zero_grad()
            loss = (net(x)[1] - x.sum()).square().mean()
            loss.backward()
            critic.step()
            critic.zero_grad()
            actor.zero_grad()
            action, value = net(x)
            loss = (action.log_softmax(1).mean(1, keepdim=True) * value.detach()).mean()
            loss.backward()
            taken.read()
            actor.step()
            loop.note(loss)


def closures(loop, make):
    net = mlp(4, 5, 2)
    optimizer = make(net.parameters())
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            calls = []

            def closure(x=x, calls=calls):
                optimizer.zero_grad()
                loss = squared(net(x))
                loss.backward()
                if not calls:  # the gradients that the optimizer begins with
                    taken.read()
                calls.append(loss)
                loop.note(loss)
                return loss

            optimizer.step(closure)
            taken.forget()


@case
def sgd_with_a_closure(loop):
    closures(loop, lambda parameters: SGD(parameters, 0.1))


@case
def lbfgs_of_one_evaluation(loop):
    closures(loop, lambda parameters: LBFGS(parameters, lr=0.1, max_iter=1))


@case
def lbfgs_of_many_evaluations(loop):
    closures(loop, lambda parameters: LBFGS(parameters, lr=0.1, max_iter=4, line_search_fn="strong_wolfe"))


@case
def clipped_by_norm(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            clip_grad_norm_(net.parameters(), 1e-3)
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def clipped_by_value_and_decayed(loop):
    net = mlp(4, 5, 2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            clip_grad_value_(net.parameters(), 1e-2)
            taken.read()
            optimizer.step()
            schedule.step()
            loop.note(loss)


@case
def parameter_hooks_that_change_gradients(loop):
    net = mlp(4, 5, 2)
    net[0].weight.register_hook(lambda gradient: gradient * 3)
    fit(loop, net, data(6, 4))


@case
def optimizer_in_the_backward_pass(loop):
    net = mlp(4, 5, 2)
    steps = {parameter: SGD([parameter], 0.1) for parameter in net.parameters()}

    def now(parameter):
        steps[parameter].step()
        steps[parameter].zero_grad()

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(now)
    with loop.recording(net) as taken:
        for x in data(6, 4):
            loss = squared(net(x))
            loss.backward()
            taken.read()
            loop.note(loss)


@case
def sharpness_aware(loop):
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4):
            optimizer.zero_grad()
            squared(net(x)).backward()
            moves = [0.05 * parameter.grad for parameter in net.parameters()]
            with torch.no_grad():
                for parameter, move in zip(net.parameters(), moves, strict=True):
                    parameter.add_(move)
            optimizer.zero_grad()
            loss = squared(net(x))
            loss.backward()
            with torch.no_grad():
                for parameter, move in zip(net.parameters(), moves, strict=True):
                    parameter.sub_(move)
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def backpropagation_through_time_truncated(loop):
    net = Made(None, rnn=nn.LSTM(3, 4), head=nn.Linear(4, 1))
    optimizer = sgd(net)
    state = None
    with loop.recording(net, optimizer) as taken:
        for x in data(4, 2, 3, count=4):
            optimizer.zero_grad()
            y, state = net.rnn(x, state)
            loss = squared(net.head(y))
            loss.backward()
            state = tuple(part.detach() for part in state)
            taken.read()
            optimizer.step()
            loop.note(loss)


@case
def graph_kept_over_two_iterations(loop):
    net = mlp(4, 5, 2)
    optimizer = SGD(net.parameters(), 0.0)
    before = None
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            y = net(x)
            loss = squared(y) + (0 if before is None else (y * before).mean())
            loss.backward(retain_graph=True)
            before = y
            taken.read()
            with torch.no_grad():
                loop.note(loss)
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
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4, count=4):
            optimizer.zero_grad()
            net.zero_grad()
            y = net(x)
            if waiting is not None:
                (squared(waiting) * extra).sum().backward()
            waiting = y
            taken.read()
            optimizer.step()
            loop.note(extra)


# --- precision -------------------------------------------------------------------------------------------------


@case
def scaled_loss(loop):
    net = mlp(4, 5, 2).float()
    optimizer = sgd(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4, dtype=torch.float32):
            optimizer.zero_grad()
            loss = squared(net(x))
            scale = scaler.get_scale()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            taken.read(scale)
            scaler.step(optimizer)
            scaler.update()
            loop.note(loss)


@case
def autocast(loop):
    net = mlp(4, 5, 2).float()
    optimizer = sgd(net)
    with loop.recording(net, optimizer) as taken:
        for x in data(6, 4, dtype=torch.float32):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = squared(net(x))
            loss.backward()
            taken.read()
            optimizer.step()
            loop.note(loss)


def halved(loop, dtype):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(75, 4)).to(dtype)
    fit(loop, net, data(4, 1, 7, 7, dtype=dtype), lambda y: y.float().square().mean())


@case
def float16(loop):
    halved(loop, torch.float16)


@case
def bfloat16(loop):
    halved(loop, torch.bfloat16)


@case
def float16_sums_above_its_range(loop):
    net = nn.Linear(4, 300, bias=False).half()
    fit(loop, net, data(40, 4, dtype=torch.float16), lambda y: (y * 2000).float().sum(), optimizer=sgd(net, 1e-6))


@case
def subnormal_gradients(loop):
    fit(loop, mlp(4, 5, 2).float(), data(6, 4, dtype=torch.float32), lambda y: y.sum() * 1e-41)


@case
def float16_subnormal_gradients(loop):
    net = nn.Linear(4, 2).half()
    fit(loop, net, data(6, 4, dtype=torch.float16), lambda y: (y * 1e-7).sum())


@case
def gradients_below_the_range_of_float32(loop):
    fit(loop, mlp(4, 5, 2), data(6, 4), lambda y: y.sum() * 1e-60)


@case
def gradients_above_the_range_of_float32(loop):
    net = mlp(4, 5, 2)
    fit(loop, net, data(6, 4), lambda y: y.sum() * 1e60, optimizer=sgd(net, 1e-62))


@case
def float32_squares_out_of_range(loop):
    net = mlp(4, 5, 2).float()
    fit(loop, net, data(6, 4, dtype=torch.float32), lambda y: y.sum() * 1e30, optimizer=sgd(net, 1e-32))


@case
def nan_in_one_iteration(loop):
    inputs = data(6, 4, count=4)
    inputs[3][0, 0] = float("nan")
    fit(loop, mlp(4, 5, 2), inputs)


@case
def infinite_gradients(loop):
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    fit(loop, net, data(6, 4), lambda y: (y[0] * float("inf")).sum() + y[1:].mean())


@case
def dead_relu(loop):
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    nn.init.constant_(net[0].bias, -100.0)
    fit(loop, net, data(6, 4))


@case
def half_dead_relu(loop):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    nn.init.zeros_(net[0].bias)
    fit(loop, net, data(6, 4))


@case
def two_hundred_layers(loop):
    layers = [layer for _ in range(200) for layer in (nn.Linear(3, 3), nn.Tanh())]
    fit(loop, nn.Sequential(*layers).double(), data(4, 3), lambda y: y.sum() * 1e20)


# --- who owns what, and what it is called ----------------------------------------------------------------------


@case
def parameters_of_the_root(loop):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4).double())
            self.bias = nn.Parameter(torch.zeros(4).double())
            self.inner = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.inner(x) * self.scale + self.bias

    fit(loop, Root(), data(6, 4))


@case
def parameter_lists_and_dicts(loop):
    def forward(net, x):
        for weight in net.weights:
            x = torch.tanh(x @ weight)
        return net.heads["last"](x @ net.table["mix"])

    weights = nn.ParameterList(torch.randn(4, 4) for _ in range(3))
    table = nn.ParameterDict({"mix": torch.randn(4, 4), "unused": torch.randn(2)})
    heads = nn.ModuleDict({"last": nn.Linear(4, 2), "other": nn.Linear(4, 3)})
    fit(loop, Made(forward, weights=weights, table=table, heads=heads), data(6, 4))


@case
def numbers_nan_and_unicode_as_names(loop):
    net = nn.Sequential(
        OrderedDict({"0": nn.Linear(4, 4), "nan": nn.Linear(4, 4), "Größe 層": nn.Linear(4, 3), "None": mlp(3, 2)})
    )
    fit(loop, net.double(), data(6, 4))


@case
def parameter_handed_out_as_output(loop):
    class Gives(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return self.weight

    fit(loop, Made(lambda s, x: x @ s.given(x), given=Gives()), data(6, 4))


@case
def layer_that_returns_its_input(loop):
    class Passing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x

    fit(
        loop,
        Made(lambda s, x: s.b(s.passing(s.a(x))), a=nn.Linear(4, 4), passing=Passing(), b=mlp(4, 2)),
        data(6, 4),
    )


@case
def scalar_outputs(loop):
    class Energy(nn.Linear):
        def forward(self, x):
            return super().forward(x).square().mean()

    fit(loop, Made(lambda s, x: s.a(x) + s.b(x), a=Energy(4, 3), b=Energy(4, 2)), data(6, 4), lambda y: y)


@case
def empty_batches(loop):
    inputs = data(6, 4, count=4)
    inputs[1] = inputs[1][:0]
    fit(loop, mlp(4, 5, 2), inputs, lambda y: y.square().sum())


@case
def outputs_without_elements(loop):
    net = Made(lambda s, x: s.a(x).sum() + s.b(x[:0]).sum(), a=nn.Linear(4, 2), b=nn.Linear(4, 3))
    fit(loop, net, data(6, 4), lambda y: y)


@case
def integer_inputs(loop):
    net = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)).double()
    fit(loop, net, [torch.randint(7, (5, 3)) for _ in range(3)])


@case
def normalisations(loop):
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(5),
        nn.RMSNorm(5),
        nn.PReLU(4),
    )
    fit(loop, net.double(), data(3, 2, 7, 5 + 2), lambda y: y.square().mean() + (y[:, :2] ** 3).mean())


@case
def convolutions_of_all_dimensions(loop):
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
    fit(loop, net, data(2, 2, 6), lambda output: sum(squared(y) for y in output))


@case
def bilinear_and_distance(loop):
    net = Made(
        lambda s, x: s.pair(s.a(x), s.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3), pair=nn.Bilinear(3, 3, 2)
    )
    fit(loop, net, data(6, 4))


@case
def lazy_layers_after_their_first_batch(loop):
    net = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2)).double()
    net(torch.ones(2, 4).double())
    fit(loop, net, data(6, 4))


@case
def channels_last_and_not_contiguous(loop):
    net = (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        .double()
        .to(memory_format=torch.channels_last)
    )
    fit(loop, net, [x.to(memory_format=torch.channels_last).transpose(2, 3) for x in data(2, 2, 7, 7)])


@case
def expanded_gradients(loop):
    fit(loop, mlp(4, 5, 2), data(6, 4), lambda y: y.sum() * 0.125)
