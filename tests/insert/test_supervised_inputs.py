"""Branches at a module's input, at a later tensor of a tuple, after a block under autocast, at embeddings."""

from __future__ import annotations

import pytest
import torch
from support.networks.registry import Apply
from torch import nn

import gradprobe as gp
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point


def sums_outside(keyword=False, in_place=False):
    """Only the network adds what its blocks return: the next block receives the sum."""

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            made = block(input=x) if keyword else block(x)
            x = x.add_(made) if in_place else x + made
        return self.head(x)

    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    return Apply(forward, stem=nn.Linear(3, 4), blocks=blocks, head=nn.Linear(4, 2))


def at_the_second_block(net, x):
    x = net.stem(x)
    return x + net.blocks[0](x)


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_branch_at_an_input_gets_what_the_module_receives(keyword, in_place):
    plain, x = sums_outside(), torch.randn(5, 3)
    net = gp.supervise(sums_outside(keyword, in_place), ["blocks.1:input"], inputs=x)
    for _ in range(2):
        assert torch.equal(net(x).output, plain(x))
        (predicted,) = net(x).auxiliary
        assert torch.equal(predicted, net.branches["at_blocks/1:input"](at_the_second_block(plain, x)))
    assert torch.equal(net.eval()(x), plain(x))
    net.remove("blocks.1:input")
    assert not any(module._forward_pre_hooks for module in net.trunk.modules())


def test_its_gradient_is_that_of_the_sum():
    x, net = torch.randn(5, 3), gp.supervise(sums_outside(), ["blocks.1:input"], inputs=torch.randn(5, 3))
    net(x).auxiliary[0].square().sum().backward()
    hand = sums_outside()
    net.branches["at_blocks/1:input"](at_the_second_block(hand, x)).square().sum().backward()
    for name, parameter in hand.named_parameters():
        other = net.trunk.get_parameter(name).grad
        assert (parameter.grad is None) == (other is None), name
        assert parameter.grad is None or torch.allclose(parameter.grad, other, atol=1e-7), name


@pytest.mark.slow
def test_it_compiles():
    x, net = (
        torch.randn(5, 3),
        gp.supervise(sums_outside(), ["blocks.1:input", "blocks.2:input"], inputs=torch.randn(5, 3)),
    )
    expected = net(x)
    compiled = torch.compile(net, backend="eager", fullgraph=True)(x)
    assert torch.allclose(compiled.output, expected.output)
    assert all(map(torch.allclose, compiled.auxiliary, expected.auxiliary))


def test_a_placement_carries_an_input_and_a_tensor_and_old_ones_are_read():
    point = Point("blocks.1:input", (5, 4), 2, ("blocks.0",), tensor=1, batch=0)
    placement = Placement("by hand", (), (point,), "given", output_shape=(5, 2))
    assert Placement.from_dict(placement.to_dict()) == placement
    old = {"name": "act", "shape": [5, 4], "depth": 1, "layers": ["fc"]}
    assert Point.from_dict(old) == Point("act", (5, 4), 1, ("fc",))


def test_the_points_of_a_scan_are_supervised():
    x, y = torch.randn(5, 3), torch.randint(2, (5,))
    history = gp.scan(sums_outside(), [(x, y)], nn.functional.cross_entropy, iterations=1)
    assert [point.name for point in history.points] == ["stem", "blocks.1:input", "blocks.2:input"]
    placement = Placement.from_dict(gp.place(history, gp.EveryLayerPolicy()).to_dict())
    assert len(gp.supervise(sums_outside(), placement)(x).auxiliary) == 3


def test_the_branch_gets_the_tensor_of_the_tuple_that_was_recorded():
    def block(self, x):
        return x.repeat(3, 1), self.fc(x)

    net = Apply(
        lambda self, x: self.head(self.block(x)[1]), block=Apply(block, fc=nn.Linear(3, 4)), head=nn.Linear(4, 2)
    )
    x = torch.randn(5, 3)
    supervised = gp.supervise(net, ["block"], inputs=x)
    assert torch.equal(supervised(x).auxiliary[0], supervised.branches["at_block"](net.block.fc(x)))


class Half(nn.Module):
    """Computes under autocast by itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.inner(x)
        return y.float()


@pytest.mark.parametrize("branch", ["auto", lambda point, output: nn.Linear(point[1], output[1])])
def test_a_branch_after_a_block_under_autocast_trains(branch):
    net = gp.supervise(
        nn.Sequential(nn.Linear(8, 8), Half(), nn.Linear(8, 3)),
        ["1.inner"],
        inputs=torch.randn(4, 8),
        branch=branch,
    )
    (predicted,) = net(torch.randn(4, 8)).auxiliary
    assert predicted.dtype == torch.float32
    predicted.sum().backward()
    assert net.trunk[1].inner.weight.grad.isfinite().all()


def test_branches_at_embeddings_of_unit_length_are_of_unit_length():
    net = Apply(
        lambda self, x: nn.functional.normalize(self.out(self.body(x)), dim=1),
        body=nn.Linear(3, 6),
        out=nn.Linear(6, 4),
    )
    (predicted,) = gp.supervise(net, ["body"], inputs=torch.randn(5, 3))(torch.randn(5, 3)).auxiliary
    assert torch.allclose(predicted.norm(dim=1), torch.ones(5))


def test_a_refusal_names_the_point_and_what_to_do():
    def forward(self, x):
        return self.head(self.pixel(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1))

    net = Apply(forward, pixel=nn.Linear(3, 4), head=nn.Linear(4, 2))
    x = torch.randn(5, 7, 3)
    with pytest.raises(
        ValueError, match=r"'pixel'.*35 against 5 along the batch.*branch=.*--branch module:callable"
    ):
        gp.supervise(net, ["pixel"], inputs=x)
