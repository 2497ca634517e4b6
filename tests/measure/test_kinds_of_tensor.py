"""Every kind of tensor: its gradient is recorded right, or missing with a reason; training is as without us."""

import pytest
import torch
from support.oracle import first
from torch import nn

from gradprobe.decide.policies import place
from gradprobe.measure.probe import GradientProbe
from gradprobe.runs.run import load, save

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The PyTorch API of nested tensors")
ITERATIONS = 3


class Plain(torch.Tensor):
    """A subclass that adds nothing."""


class Chain(nn.Module):
    """Two layers, with something done to the tensor between them."""

    def __init__(self, before=None, after=None, between=lambda x: x):
        super().__init__()
        self.before, self.after = before or nn.Linear(4, 3), after or nn.Linear(3, 2)
        self.between = between

    def forward(self, x):
        return self.after(self.between(self.before(x)))


class Scaled(nn.Module):
    """A layer, and a parameter of the network's own that its output is multiplied by."""

    def __init__(self, scale, trained=True):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.scale = nn.Parameter(scale, requires_grad=trained)

    def forward(self, x):
        return self.layer(x) * self.scale.float().sum()


class WithSpare(nn.Module):
    def __init__(self, spare):
        super().__init__()
        self.layer, self.spare = nn.Linear(4, 2), spare

    def forward(self, x):
        return self.layer(x)


def complex_layers():
    return Chain(nn.Linear(4, 3, dtype=torch.cfloat), nn.Linear(3, 2, dtype=torch.cfloat))


def tied():
    net = Chain(nn.Linear(4, 4), nn.Linear(4, 4), torch.tanh)
    net.after.weight = net.before.weight
    return net


NETWORKS = {
    "complex": complex_layers,
    "tied": tied,
    "sparse": lambda: Chain(nn.Embedding(10, 3, sparse=True)),
    "subclass output": lambda: Chain(between=lambda x: x.as_subclass(Plain)),
    "subclass parameter": lambda: Scaled(torch.ones(2).as_subclass(Plain)),
    "no dimensions": lambda: Scaled(torch.tensor(2.0)),
    "no elements": lambda: Scaled(torch.zeros(0)),
    "integers": lambda: Scaled(torch.arange(3), trained=False),
    "float8": lambda: Scaled(torch.ones(2).to(torch.float8_e4m3fn), trained=False),
    "meta": lambda: WithSpare(nn.Linear(3, 3, device="meta")),
    "float64": lambda: Chain().double(),
    "bfloat16": lambda: Chain().bfloat16(),
    "nested": Chain,
}


def inputs_for(name, net):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    if name == "sparse":
        return torch.tensor([1, 2, 2, 9])
    if name == "nested":
        return torch.nested.nested_tensor([x[:1], x[1:4], x[4:]], layout=torch.jagged)
    return x.to(next(net.parameters()).dtype) if name in ("complex", "float64", "bfloat16") else x


def mean_size(gradients):
    """The mean absolute value over the real elements of some gradients, in float64; None without any."""
    parts = [one.values() if one.is_nested else one.to_dense() if one.is_sparse else one for one in gradients]
    sizes = torch.cat([part.detach().abs().double().reshape(-1) for part in parts]) if parts else torch.zeros(0)
    return sizes.mean().item() if sizes.numel() else None


def by_hand(net, found):
    """Notes the gradients of outputs; returns what is called before a step, to note those of the weights."""
    outputs = {}
    layers = {name: module for name, module in net.named_modules() if list(module.parameters(recurse=False))}

    def note(name):
        def hook(module, inputs, output):
            if first(output).requires_grad:
                first(output).register_hook(lambda gradient: outputs.setdefault(name, []).append(gradient.clone()))

        return hook

    for name, module in layers.items():
        module.register_forward_hook(note(name))

    def before_step():
        for name, module in layers.items():
            own = [p.grad for local, p in module.named_parameters(recurse=False) if local != "bias"]
            found[name, "output"] = mean_size(outputs.get(name, []))
            found[name, "weight"] = mean_size([gradient for gradient in own if gradient is not None])
        outputs.clear()

    return before_step


def train(name, before_step=lambda net: lambda: None, probed=False):
    torch.manual_seed(0)
    net = NETWORKS[name]()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad and not p.is_meta], 0.1)
    probe = GradientProbe(net, optimizer=optimizer, iterations=ITERATIONS) if probed else None
    note, x = before_step(net), inputs_for(name, net)
    if probe is not None:
        probe.__enter__()
    for _ in range(ITERATIONS):
        optimizer.zero_grad()
        output = net(x)
        (output.values() if output.is_nested else output).abs().square().sum().backward()
        note()
        optimizer.step()
    if probe is not None:
        probe.__exit__(None, None, None)
    return [p.detach().clone() for p in net.parameters() if not p.is_meta], probe


def comparable(tensor):
    return tensor if tensor.is_complex() else tensor.double()  # float8 cannot be compared


@pytest.mark.limit(
    "complex, sparse, nested, tied, float8, meta and empty parameters, subclasses of Tensor",
    "exact, or missing with a reason",
    "exact, or missing with a reason",
)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_kind_is_recorded_as_by_hand_and_trains_as_without(name, tmp_path):
    expected = {}
    plain, _ = train(name, lambda net: by_hand(net, expected))
    weights, probe = train(name, probed=True)
    assert all(torch.equal(comparable(one), comparable(other)) for one, other in zip(plain, weights, strict=True))
    history = probe.history
    last = history.frame[history.frame["iteration"] == ITERATIONS - 1]
    found = {(row.layer, row.of): row.mean_abs for row in last.itertuples()}
    unreached = {(layer.name, of): why for layer in history.layers for of, why in layer.unreached.items()}
    for key, value in expected.items():
        if value is None:
            assert unreached[key]
            assert "please report" not in unreached[key]
        else:
            assert found[key] == pytest.approx(value, rel=1e-5), key
    save(tmp_path / "run", history, place(history))
    assert load(tmp_path / "run").history.layers == history.layers


def test_a_jagged_network_has_no_output_shape():
    _, probe = train("nested", probed=True)
    assert probe.history.output_shape is None
