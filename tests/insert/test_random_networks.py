"""Many random networks: points, supervise, one step, eval bit-equal, removed without a trace.

``GRADPROBE_RANDOM_NETWORKS=2000`` draws that many; ``GRADPROBE_RANDOM_SEED`` is where they begin.
"""

from __future__ import annotations

import copy
import os
import warnings

import pytest
import torch
from support.random_networks import draw

import gradprobe as gp
from gradprobe.network.layers import named_layers
from gradprobe.network.tensors import as_arguments, tensors
from gradprobe.record.points import is_input, module_of

COUNT = int(os.environ.get("GRADPROBE_RANDOM_NETWORKS", "40"))
FIRST = int(os.environ.get("GRADPROBE_RANDOM_SEED", "0"))
AT_ONCE = 20
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def call(model, inputs):
    torch.manual_seed(7)
    args, kwargs = as_arguments(inputs)
    return model(*args, **kwargs)


def same(one, other):
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return type(one) is type(other) and all(torch.equal(*pair) for pair in pairs)


def traits(model):
    modules = [
        (name, type(module), sorted(vars(module)), [len(vars(module)[key]) for key in HOOKS], module.training)
        for name, module in model.named_modules()
    ]
    return modules, list(model.state_dict())


def check_points(drawn, points):
    served = [name for point in points for name in point.layers]
    assert sorted([*served, *points.unserved]) == sorted(named_layers(drawn.model))
    assert all(points.unserved.values())


def check_supervised(drawn, points):
    """A branch for every point, one step, eval, and off again."""
    before, plain = traits(drawn.model), call(copy.deepcopy(drawn.model).eval(), drawn.inputs)
    net = gp.supervise(drawn.model, [point.name for point in points], inputs=drawn.inputs)
    assert same(plain, call(net.eval(), drawn.inputs))
    prediction = call(net.train(), drawn.inputs)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    gp.DeepSupervisionLoss(drawn.loss, 0.3, "constant")(prediction, drawn.target).backward()
    for name, parameter in net.branches.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    optimizer.step()
    for shape, part in zip(tensors(prediction.output), tensors(prediction.auxiliary[0]), strict=False):
        if shape.dim():
            assert part.shape == shape.shape
    net.remove()
    assert traits(drawn.model) == before


def bypassed(model, inputs, block, point):
    """Whether a gradient gets around a point inside a block: from what the block returns to what it gets."""
    sources, results = [], []

    def enter(module, args, kwargs):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors([args, kwargs])]
        sources.extend(leaves)
        return replaced((args, kwargs), iter([leaf * 1 for leaf in leaves]))

    hooks = [
        model.get_submodule(block).register_forward_pre_hook(enter, with_kwargs=True),
        model.get_submodule(block).register_forward_hook(lambda module, args, output: results.append(output)),
        *blocked(model, point),
    ]
    call(model, inputs)
    for hook in hooks:
        hook.remove()
    total = sum(tensor.square().sum() for tensor in tensors(results) if tensor.requires_grad)
    if not isinstance(total, torch.Tensor):
        return False
    try:
        gradients = torch.autograd.grad(total, sources, allow_unused=True)
    except RuntimeError:  # changed in place: allowed only while what is frozen before it needs no gradient
        return False
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def replaced(value, leaves):
    if isinstance(value, torch.Tensor):
        return next(leaves)
    if isinstance(value, dict):
        return {key: replaced(part, leaves) for key, part in value.items()}
    return type(value)(replaced(part, leaves) for part in value) if isinstance(value, (tuple, list)) else value


def blocked(model, point):
    """Hooks that let no gradient through all tensors that the module of a point returns, or gets."""

    def block(*seen):
        for tensor in tensors(list(seen[1:2] if is_input(point) else seen[2:])):
            if tensor.requires_grad:
                tensor.register_hook(torch.zeros_like)

    module = model.get_submodule(module_of(point))
    before = is_input(point)
    return [module.register_forward_pre_hook(block) if before else module.register_forward_hook(block)]


def check_nothing_goes_around(drawn, points):
    """By gradients alone: no point is inside a branch of a block that something goes around."""
    model = copy.deepcopy(drawn.model).eval()
    for point in points:
        outer = [name for name, module in model.named_modules() if getattr(module, "bypassed", False)]
        for block in outer:
            if point.module.startswith(f"{block}.") and not is_input(point.name):
                assert not bypassed(model, drawn.inputs, block, point.name), f"{point.name} in {block}"
    if drawn.exact:
        for point in points:
            assert not bypassed(model, drawn.inputs, "", point.name), f"around {point.name}"


def check(number):
    drawn = draw(number)
    points = gp.points(drawn.model, drawn.inputs)
    check_points(drawn, points)
    if not drawn.predicts:
        assert not points
    elif points:
        check_nothing_goes_around(drawn, points)
        check_supervised(drawn, points)


@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, AT_ONCE))
def test_random_networks(first):
    failed = {}
    for number in range(first, min(first + AT_ONCE, FIRST + COUNT)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(number)
            except Exception as error:
                failed[draw(number).description] = f"{type(error).__name__}: {error}"
    assert not failed
