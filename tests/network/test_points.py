"""Where a branch may be: on many small networks, the points by hand and by an independent check of gradients."""

from __future__ import annotations

import pytest
import torch
from support.networks.registry import NETWORKS, OUTPUT, Apply, built, matching
from torch import nn

import gradprobe as gp
from gradprobe.network.layers import named_layers, named_modules
from gradprobe.network.tensors import tensors
from gradprobe.record.points import is_input, module_of


@pytest.mark.parametrize("name", NETWORKS)
def test_points_are_those_by_hand(name):
    expected = NETWORKS[name]
    model, inputs = built(name)
    points = gp.points(model, inputs)
    layers = list(named_layers(model))
    assert {point.name: sorted(point.layers) for point in points} == {
        name: sorted(matching(layers, patterns.split())) for name, patterns in expected.points.items()
    }
    assert [point.name for point in points] == list(expected.points)
    assert points.unserved == {
        layer: why for pattern, why in expected.unserved.items() for layer in matching(layers, [pattern])
    }
    assert {point.name: point.channels for point in points if point.name in expected.channels} == expected.channels


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_served_once_or_has_a_reason(name):
    model, inputs = built(name)
    points = gp.points(model, inputs)
    served = [layer for point in points for layer in point.layers]
    assert sorted([*served, *points.unserved]) == sorted(named_layers(model))
    for point in points:
        assert list(point.layers) == sorted(point.layers, key=served.index)
    assert [point.depth for point in points] == sorted(point.depth for point in points)


def test_points_lead_to_the_output_that_a_branch_has_to_predict():
    def forward(self, x):
        x = self.body(x)
        return self.first(x), self.second(x)

    second = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    net = Apply(forward, body=nn.Sequential(nn.Linear(4, 4), nn.ReLU()), first=nn.Linear(4, 2), second=second)
    history = gp.scan(
        net, [(torch.randn(3, 4), None)], lambda output, _: sum(map(torch.sum, output)), iterations=1
    )
    assert history.output_shape == (3, 2)
    assert [point.name for point in history.points] == ["body"]


def detached(value):
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, (tuple, list)):
        return type(value)(detached(part) for part in value)
    return value


def leaves(inputs):
    """The inputs again, those of numbers requiring a gradient, and these alone."""
    if isinstance(inputs, torch.Tensor):
        inputs = inputs.clone().requires_grad_(inputs.is_floating_point())
        return inputs, [inputs] * inputs.requires_grad
    if isinstance(inputs, tuple):
        made = [leaves(value) for value in inputs]
        return tuple(value for value, _ in made), [leaf for _, inner in made for leaf in inner]
    made = {
        key: leaves(value) if isinstance(value, torch.Tensor) else (value, []) for key, value in inputs.items()
    }
    return {key: value for key, (value, _) in made.items()}, [leaf for _, inner in made.values() for leaf in inner]


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_of(name, output):
    output = NETWORKS[name].main(output)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return (output * weights).sum()


def cut_off(module, at_input):
    if at_input:  # of the tensor itself: it also goes around the module
        module.register_forward_pre_hook(lambda module, args: args[0].register_hook(torch.zeros_like) and None)
    else:
        module.register_forward_hook(lambda module, args, output: detached(output))


def arrives(name, without=None):
    """Whether a gradient arrives at each input and in each layer, with one module's output detached or none."""
    model, inputs = built(name)
    if without is not None:
        cut_off(dict(named_modules(model))[module_of(without)], is_input(without))
    inputs, sources = leaves(inputs)
    loss_of(name, call(model, inputs)).backward()
    layers = {layer: list(module.parameters(recurse=False)) for layer, module in named_layers(model).items()}
    return [_any_gradient([source]) for source in sources], {
        layer: _any_gradient(parameters) for layer, parameters in layers.items()
    }


def _any_gradient(parameters):
    return any(tensor.grad is not None and bool(tensor.grad.any()) for tensor in parameters)


SEVERAL_INPUTS = ("two_inputs", "conditioned_blocks")
SERVED = [name for name, net in NETWORKS.items() if not net.long_skips]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of reentrant checkpointing
@pytest.mark.parametrize("name", SERVED)
def test_after_a_detached_point_nothing_arrives(name):
    """Every path from an input to the output, and from every layer that the point serves, passes the point."""
    points = gp.points(*built(name))
    inputs, layers = arrives(name)
    assert all(inputs) == (name != "backbone_under_no_grad")
    served = []
    for point in points:
        served = (
            [*served, *point.layers] if name not in SEVERAL_INPUTS else point.layers
        )  # else all before it, too
        at_inputs, at_layers = arrives(name, without=point.name)
        assert at_inputs == [] or not all(at_inputs), f"{point.name} is no cut"
        still = [layer for layer in served if layers[layer] and at_layers[layer]]
        assert not still, f"{point.name} is not after {still}"
        assert at_layers != layers, f"{point.name} cuts nothing off"


def state(model):
    tensors_of = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(module.training, *(len(vars(module)[key]) for key in HOOKS)) for module in model.modules()]
    flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    return tensors_of, modules, flags, torch.get_rng_state()


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_stays_as_it_was(name):
    model, inputs = built(name)
    given = [tensor.clone() for tensor in tensors(inputs)]
    before, modules, flags, rng = state(model)
    gp.points(model, inputs)
    after, modules_after, flags_after, rng_after = state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (modules, flags) == (modules_after, flags_after)
    assert torch.equal(rng, rng_after)
    assert all(torch.equal(*pair) for pair in zip(given, tensors(inputs), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_twice(name):
    first, again = (gp.points(*built(name)) for _ in range(2))
    model, inputs = built(name)
    gp.points(model, inputs)
    for points in (again, gp.points(model, inputs)):
        assert tuple(points) == tuple(first)
        assert points.unserved == first.unserved


def unserved(history):
    return {layer.name: layer.unserved for layer in history.layers if layer.unserved}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_scan_records_the_same_points(name):
    model, inputs = built(name)
    model.train()
    expected = gp.points(model, inputs)
    history = gp.scan(model, [(inputs, None)], lambda output, _: loss_of(name, output), iterations=1)
    assert history.points == tuple(expected)
    assert unserved(history) == expected.unserved


@pytest.mark.parametrize("name", NETWORKS)
def test_a_probe_in_the_user_s_loop_records_the_same_points(name):
    model, inputs = built(name)
    expected = gp.points(model, inputs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    with gp.GradientProbe(model, optimizer=optimizer, iterations=1) as probe:
        loss_of(name, call(model, inputs)).backward()
        optimizer.step()
    assert probe.history.points == tuple(expected)
    assert unserved(probe.history) == expected.unserved


def pairs(points):
    return [(point.name, point.layers) for point in points]


@pytest.mark.parametrize("name", ["plain", "resnet", "vit", "hrnet", "nnunet"])
def test_a_compiled_model_has_the_points_of_the_model(name):
    model, inputs = built(name)
    assert pairs(gp.points(torch.compile(model, backend="eager"), inputs)) == pairs(gp.points(model, inputs))


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_model_with_compiled_parts_has_the_points_of_the_model(name):
    model, inputs = built(name)
    expected = pairs(gp.points(model, inputs))
    for child, module in list(model.named_children()):
        if child in ("layer2", "norm"):
            setattr(model, child, torch.compile(module, backend="eager"))
    assert pairs(gp.points(model, inputs)) == expected


@pytest.mark.parametrize("name", ["plain", "resnet", "vit"])
def test_a_distributed_model_has_the_points_of_the_model(name, process_group):
    model, inputs = built(name)
    expected = pairs(gp.points(model, inputs))
    assert pairs(gp.points(nn.parallel.DistributedDataParallel(model), inputs)) == expected


def test_a_thousand_layers():
    deep = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(1000)), nn.Linear(2, 1))
    points = gp.points(deep, torch.randn(3, 2))
    assert [point.name for point in points] == [str(k) for k in range(1000)]


def test_a_thousand_layers_in_residual_blocks():
    def block(self, x):
        return x + self.lin2(self.lin1(x).tanh())

    blocks = [Apply(block, lin1=nn.Linear(2, 2), lin2=nn.Linear(2, 2)) for _ in range(500)]
    points = gp.points(nn.Sequential(nn.Linear(2, 2), *blocks, nn.Linear(2, 1)), torch.randn(3, 2))
    assert [point.name for point in points] == [str(k) for k in range(501)]


def test_a_model_without_layers_has_no_points():
    points = gp.points(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(2, 3))
    assert tuple(points) == ()
    assert points.unserved == {}


def test_a_single_layer_makes_the_output():
    assert gp.points(nn.Linear(3, 2), torch.randn(2, 3)).unserved == {"": OUTPUT}


class CallsItself(nn.Sequential):
    """As a LightningModule under DDP, whose training step is called as its forward."""

    def forward(self, x, y=None):
        return super().forward(x) if y is None else nn.functional.mse_loss(self(x), y)


def test_a_root_that_calls_itself_for_the_loss_has_the_output_of_the_inner_call():
    net = CallsItself(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with gp.GradientProbe(net) as probe:
        net(x, torch.randn(5, 2)).backward()
        probe.step()
    assert probe.history.output_shape == (5, 2)
    assert probe.history.points == gp.points(net, x)
