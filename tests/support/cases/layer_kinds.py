"""Cases: recurrent layers, attention, outputs in containers, parametrizations, sparse and complex numbers."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim import SGD, SparseAdam

from support.cases.loop import Made, case, data, mlp, plain, squared, tokens, variants

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
