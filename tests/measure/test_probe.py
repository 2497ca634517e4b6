import contextlib
import copy
import io
import math

import pytest
import torch
from support.oracle import assert_agrees, layer_means, record
from torch import nn

from gradprobe import GradientProbe, scan
from gradprobe.network.hooks import Hook
from gradprobe.record.history import UNREACHED


def test_a_chain_has_the_gradients_that_the_chain_rule_gives(chain):
    # y = w2 w1 w0 x, loss = y: dL/dy_k is the product of the weights after k, dL/dw_k that times its input
    net = chain(2.0, 3.0, 5.0)
    history = scan(net, [(torch.full((1, 1), 7.0).double(), None)], lambda y, _: y.sum(), iterations=1)
    assert history.aggregate("output").to_dict() == {"0": 15.0, "1": 5.0, "2": 1.0}
    assert history.aggregate("weight").to_dict() == {"0": 105.0, "1": 70.0, "2": 42.0}


@pytest.mark.limit("magnitudes from 1e-30 to 1e4", "exact (1e-6)", "exact (1e-6)")
@pytest.mark.parametrize("factor", [1e-15, 1e-5, 1.0, 1e2])
def test_magnitudes_from_1e_30_to_1e4_agree_with_float64(chain, factor):
    net = chain(*[factor] * 3)
    history = scan(net, [(torch.ones(4, 1).double(), None)], lambda y, _: y.sum(), iterations=1)
    assert history.aggregate("output")["0"] == pytest.approx(factor**2, rel=1e-6)
    assert history.aggregate("weight")["0"] == pytest.approx(4 * factor**2, rel=1e-6)


class Awkward(nn.Module):
    """Names that are numbers; layers never run, frozen, shared; in-place changes; outputs in containers."""

    def __init__(self):
        super().__init__()
        self.add_module("0", nn.Conv2d(1, 4, 3))
        self.add_module("nan", nn.Conv2d(4, 4, 3, padding=1))
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.never = nn.Linear(3, 3)
        self.shared = nn.Linear(6, 6)
        self.rnn = nn.LSTM(6, 5, batch_first=True)
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        x = getattr(self, "0")(x).relu_()
        y = self.nan(x)
        y += x
        y = self.frozen(y)
        y = self.shared(torch.tanh(self.shared(y.mean(1))))
        y, _ = self.rnn(y)
        return {"logits": self.last(self.norm(y.mean(1))), "aside": None}


def awkward_batches(count=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 1, 8, 8, generator=generator).double(), torch.randint(3, (5,), generator=generator))
        for _ in range(count)
    ]


def cross_entropy(output, target):
    return nn.functional.cross_entropy(output["logits"], target)


@pytest.mark.limit("shared, frozen and never called layers, changes in place, dicts", "exact", "exact")
def test_an_awkward_network_agrees_with_an_independent_float64_loop():
    torch.manual_seed(0)
    net = Awkward().double()
    batches = awkward_batches()
    expected = record(net, batches, cross_entropy, 7)
    history = scan(net, batches, cross_entropy, iterations=7)
    assert_agrees(history, expected)
    assert history.unreached == {
        "frozen": {"weight": "frozen: requires_grad is False"},
        "never": {"output": "never called as a module", "weight": "never called as a module"},
    }
    assert codes(history) == {
        "frozen": {"weight": "frozen"},
        "never": {"output": "never_called", "weight": "never_called"},
    }


def test_depth_is_the_order_of_the_forward_pass():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.unused, self.first = nn.Linear(2, 1), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.last(self.first(x))

    history = scan(Backwards(), [(torch.ones(2, 2), None)], lambda y, _: y.sum(), iterations=1)
    assert [layer.name for layer in history.layers] == ["first", "last", "unused"]


def test_weight_is_every_own_parameter_but_biases():
    net = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(3, 5, 4)
    with GradientProbe(net) as probe:
        net(x, x, x, need_weights=False)[0].square().sum().backward()
        probe.step()
    own = net.in_proj_weight.grad.double().abs().mean().item()
    assert layer_means(probe.history, "weight", "") == [pytest.approx(own, rel=1e-6)]
    # its forward is never called: the attention takes the weight itself
    assert layer_means(probe.history, "weight", "out_proj") == [
        pytest.approx(net.out_proj.weight.grad.double().abs().mean().item(), rel=1e-6)
    ]
    assert "output" in probe.history.unreached["out_proj"]


def test_a_layer_with_nothing_but_a_bias_has_no_weight_rows():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return x + self.bias

    history = scan(nn.Sequential(Shift()), [(torch.ones(3, 2), None)], lambda y, _: y.sum(), iterations=1)
    assert set(history.frame["of"]) == {"output"}


def test_parametrized_weights_belong_to_their_layer():
    net = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 1))
    with GradientProbe(net) as probe:
        net(torch.randn(5, 3)).sum().backward()
        probe.step()
    originals = [p.grad for name, p in net[0].named_parameters() if "original" in name]
    elements = torch.cat([gradient.flatten() for gradient in originals]).double()
    assert [layer.name for layer in probe.history.layers] == ["0", "1"]
    assert layer_means(probe.history, "weight", "0") == [pytest.approx(elements.abs().mean().item(), rel=1e-6)]


def test_several_micro_batches_are_one_iteration():
    net = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with GradientProbe(net, optimizer=optimizer, iterations=2) as probe:
        for _ in range(2):
            for scale in (1.0, 3.0):
                (scale * net(torch.ones(4, 2))).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert layer_means(probe.history, "output", "") == [0.5, 0.5]  # mean of 1/4 and 3/4 over 8 elements
    assert layer_means(probe.history, "weight", "") == [4.0, 4.0]  # what the optimizer sees


def test_exact_zeros_and_nonfinite_values_are_findings():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        net[1].weight.zero_()
    with GradientProbe(net) as probe:
        net(torch.ones(1, 1)).sum().backward()
        probe.step()
        net.zero_grad()
        (net(torch.ones(1, 1)).sum() * math.nan).backward()
        probe.step()
    frame = probe.history.frame.query("layer == '0' and of == 'output'")
    assert frame["mean_abs"].iloc[0] == 0
    assert frame["zero_fraction"].iloc[0] == 1
    assert frame["nonfinite"].tolist() == [0, 1]
    assert "0" not in probe.history.unreached


def codes(history):
    return {layer.name: dict(layer.unreached_code) for layer in history.layers if layer.unreached_code}


def test_reasons_for_unreached_layers():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.detached, self.aside, self.used = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            self.aside(x)
            return self.used(self.detached(x).detach())

    history = scan(Cut(), [(torch.ones(2, 2), None)], lambda y, _: y.sum(), iterations=2)
    assert history.unreached["detached"]["output"] == "no path from its output to the loss"
    assert history.unreached["aside"]["weight"] == "no path from its weight to the loss"
    assert codes(history) == {name: {"output": "no_path", "weight": "no_path"} for name in ("detached", "aside")}
    assert history.frame[history.frame["layer"] == "aside"]["mean_abs"].isna().all()


@pytest.mark.limit(
    "modules that come while the window is open",
    "missing, named with the reason",
    "missing, named with the reason",
)
def test_every_reason_has_a_code_of_its_own():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.uncalled = (nn.Linear(2, 2).requires_grad_(False) for _ in range(2))
            self.untracked, self.consumed, self.empty = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            with torch.no_grad():
                y = self.untracked(self.frozen(x))
            return self.consumed(y).sum() + self.empty(y[:0]).sum()

    net = Parts()
    with GradientProbe(net) as probe:
        net.late = nn.Linear(2, 2)
        net(torch.ones(2, 2)).backward()
        net.consumed.weight.grad = None
        probe.step()
    found = codes(probe.history)
    assert found == {
        "frozen": {"output": "frozen", "weight": "frozen"},
        "uncalled": {"output": "frozen", "weight": "frozen"},
        "untracked": {"output": "detached", "weight": "no_path"},
        "consumed": {"output": "consumed", "weight": "consumed"},
        "empty": {"output": "refused"},
        "late": {"output": "came_late", "weight": "came_late"},
    }
    assert found.keys() == probe.history.unreached.keys()
    assert {code for by_quantity in found.values() for code in by_quantity.values()} <= set(UNREACHED)


def test_the_window_closes_by_itself_and_the_hooks_come_off():
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with GradientProbe(net, optimizer=optimizer, iterations=2) as probe:
        for _ in range(5):
            net(torch.ones(1, 1)).sum().backward()
            optimizer.step()
            if probe.recorded == 2:
                assert not net._forward_hooks
                assert not optimizer._optimizer_step_pre_hooks
    assert probe.history.iterations == 2
    assert probe.history.conditions["complete"]


def test_a_probe_left_by_an_exception_detaches():
    net = nn.Linear(1, 1)
    probe = GradientProbe(net)
    with contextlib.suppress(ZeroDivisionError), probe:
        net(torch.ones(1, 1)).sum().backward()
        probe.step()
        raise ZeroDivisionError
    assert not net._forward_hooks
    assert probe.history.iterations == 1
    assert not probe.history.conditions["complete"]


def test_a_parameter_handed_out_as_output_does_not_keep_its_hook():
    class Gives(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.weight

    net = nn.Sequential(Gives())
    history = scan(net, [(torch.ones(1), None)], lambda y, _: y.sum(), iterations=3)
    assert layer_means(history, "output", "0") == [1.0] * 3
    assert not net[0].weight._backward_hooks


def test_copies_of_a_probed_model_carry_no_hooks():
    net = nn.Sequential(nn.Linear(1, 1))
    with GradientProbe(net) as probe:
        average = copy.deepcopy(net)
        for _ in range(3):
            average(torch.ones(1, 1)).sum().backward()
        file = io.BytesIO()
        torch.save(net, file)
        net(torch.full((1, 1), 5.0)).sum().backward()
        probe.step()
    assert layer_means(probe.history, "weight", "0") == [5.0]
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert not any(isinstance(hook, Hook) for hook in loaded[0]._forward_hooks.values())
    assert not any(isinstance(hook, Hook) for hook in average[0]._forward_hooks.values())


def test_layers_can_be_chosen_by_pattern():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with GradientProbe(net, layers=["1"]) as probe:
        net(torch.ones(1, 1)).sum().backward()
        probe.step()
    assert set(probe.history.frame["layer"]) == {"1"}
    with pytest.raises(ValueError, match="no layer is called '2'; did you mean"):
        GradientProbe(net, layers=["2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "at least 1, got 0"),
        ({"of": "weights"}, "to name some of"),
        ({"stats": "max"}, "expected stats out of"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientProbe(nn.Linear(1, 1), **arguments)


@pytest.mark.limit("lazy modules before their first batch", "refused", "refused")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.ReLU(), "has no parameters"),
        (nn.Linear(1, 1).requires_grad_(False), "all 2 parameters of Linear are frozen"),
        (nn.LazyLinear(2), "run one batch through it first"),
    ],
)
def test_a_model_without_gradients_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        GradientProbe(model)


def test_something_that_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got str"):
        GradientProbe("resnet50")


@pytest.mark.limit(
    "steps captured in a CUDA graph (imitated)",
    "missing with the reason",
    "exact, if the optimizer steps outside of it",
)
@pytest.mark.parametrize("step_too", [False, True])
def test_what_a_cuda_graph_captures_is_refused_with_the_reason(monkeypatch, step_too):
    net, capturing = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), [False]
    monkeypatch.setattr("gradprobe.measure.output_gradients.is_captured", lambda: capturing[0])
    monkeypatch.setattr("gradprobe.measure.probe.is_captured", lambda: capturing[0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with GradientProbe(net, optimizer=optimizer, iterations=3) as probe:
        capturing[0] = True
        net(torch.ones(2, 3)).mean().backward()
        capturing[0] = step_too
        optimizer.step()
    assert probe.recorded == (0 if step_too else 1)
    for reasons in probe.history.unreached.values():
        assert "CUDA graph" in reasons["output"]
        assert step_too == ("weight" in reasons)
    assert set(probe.history.unreached) == {"0", "1"}
