"""Points and blocks: the structures of the large collections of image models, by hand."""

from __future__ import annotations

import pytest
import torch
from support.networks.aggregation import Res2Net, aggregation
from support.networks.registry import Apply, conv
from torch import nn

import gradprobe as gp
from gradprobe.network.survey import survey
from gradprobe.network.trace_graph import TraceGraph


def names(model, inputs):
    torch.manual_seed(0)
    return [point.name for point in gp.points(model, inputs)]


class TokenBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.attn, self.proj = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x):
        q, k, v = self.attn(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        return x + self.down(self.up(self.norm2(x)).relu())


class Exchange(nn.Module):
    """A stage of CrossViT (Chen et al. 2021): two streams, and what each gives to the other."""

    def __init__(self, small, large):
        super().__init__()
        self.small = nn.Sequential(*(TokenBlock(4) for _ in range(small)))
        self.large = nn.Sequential(*(TokenBlock(6) for _ in range(large)))
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, pair):
        small, large = self.small(pair[0]), self.large(pair[1])
        return [small + self.down(large).mean(1, True), large + self.up(small).mean(1, True)]


@pytest.mark.parametrize("depths", [(1, 1), (2, 3), (1, 4), (1, 9), (5, 1)])
def test_of_two_streams_of_any_depth_the_stages_are_the_points(depths):
    def forward(self, x):
        pair = [self.first(x), self.second(x[:, ::2])]
        for stage in self.stages:
            pair = stage(pair)
        return self.head(pair[0].mean(1)) + self.other(pair[1].mean(1))

    stages = nn.ModuleList(Exchange(*depths) for _ in range(3))
    layers = {
        "first": nn.Linear(3, 4),
        "second": nn.Linear(3, 6),
        "head": nn.Linear(4, 5),
        "other": nn.Linear(6, 5),
    }
    assert names(Apply(forward, stages=stages, **layers), torch.randn(2, 6, 3)) == [
        f"stages.{k}" for k in range(3)
    ]


def goes_around(model, inputs, block, name):
    """Whether a gradient arrives at what a block gets although the output of a module in it is detached."""
    entered, returned = [], []

    def enter(module, args):
        entered.append(args[0].detach().requires_grad_())
        return entered[0].clone(), *args[1:]

    handles = [
        model.get_submodule(block).register_forward_pre_hook(enter),
        model.get_submodule(block).register_forward_hook(lambda module, args, output: returned.append(output)),
        model.get_submodule(name).register_forward_hook(lambda module, args, output: output.detach()),
    ]
    model(inputs)
    for handle in handles:
        handle.remove()
    if not returned[0].requires_grad:
        return False
    return torch.autograd.grad(returned[0].square().sum(), entered, allow_unused=True)[0] is not None


def bypassed_points(model, inputs):
    """The points inside a block, or inside a tree of two blocks and their root, that it has a way around."""
    blocks = [
        name
        for name, each in model.named_modules()
        if isinstance(each, Res2Net) or getattr(each, "levels", 0) == 1
    ]
    found = names(model, inputs)
    assert len(found) >= 5
    inside = [(block, name) for name in found for block in blocks if name.startswith(f"{block}.")]
    return [name for block, name in inside if goes_around(model, inputs, block, name)]


@pytest.mark.parametrize(
    ("levels", "shortcut"),
    [
        ((2,), False),
        ((1, 2), False),
        ((1, 2, 3, 1), False),
        ((1, 3, 4), False),
        ((1, 2), True),
        ((1, 2, 3, 1), True),
        ((1, 3, 4), True),
    ],
)
def test_no_point_of_a_tree_of_levels_is_in_a_branch_that_its_root_or_a_block_goes_around(levels, shortcut):
    assert bypassed_points(aggregation(levels, shortcut), torch.randn(2, 3, 32, 32)) == []


def test_around_what_is_bypassed_is_needed_for_them(monkeypatch):
    """The tree's own skip, taken away as a long one, leaves the second block as the only way to the root."""
    monkeypatch.setattr(TraceGraph, "bypassed", lambda graph, flow: set())
    assert bypassed_points(aggregation((1, 2, 3, 1)), torch.randn(2, 3, 32, 32)) != []


class NormAct(nn.BatchNorm2d):
    """Normalisation with its activation inside, as timm's BatchNormAct2d."""

    def __init__(self, width):
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_a_normalisation_with_its_activation_inside_is_one_point_with_its_convolution():
    net = nn.Sequential(conv(3, 4), NormAct(4), conv(4, 4), NormAct(4), nn.Flatten(), nn.Linear(64, 2))
    points = gp.points(net, torch.randn(2, 3, 4, 4))
    assert [(point.name, point.layers) for point in points] == [("1", ("0", "1")), ("3", ("2", "3"))]


class Scaled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 8), nn.Linear(8, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x):
        return x + self.gamma * self.down(self.up(self.norm(x)).relu())


def scaled():
    return nn.Sequential(nn.Linear(3, 4), Scaled(4), Scaled(4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_a_block_that_owns_a_parameter_is_its_own_point():
    points = {point.name: point.layers for point in gp.points(scaled(), torch.randn(5, 3))}
    assert list(points) == ["0", "1", "2", "3"]
    assert points["2"] == ("2.norm", "2.up", "2.down", "2")
    assert points["3"] == ("3",)


def test_a_layer_scale_that_starves_a_branch_is_told():
    """With 1e-6 on the branch its layers get about 1e-6 of what the block gets, with a branch there or without."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 3), torch.randint(2, (16,)))]
    placement = gp.place(gp.scan(scaled(), batches, nn.functional.cross_entropy, iterations=1))
    assert {"1.norm", "1.up", "1.down"} <= set(placement.flagged)
    assert placement.points == ()
    assert "layer scale" in placement.reason
    assert {"1.down", "2.down"} <= set(placement.skipped)


class Inverted(nn.Module):
    """The inverted residual of MobileNetV2: no shortcut where the size changes."""

    def __init__(self, inside, width, stride):
        super().__init__()
        self.expand, self.norm1 = conv(inside, 2 * inside, 1), nn.BatchNorm2d(2 * inside)
        self.project, self.norm2 = conv(2 * inside, width, 3, stride), nn.BatchNorm2d(width)
        self.shortcut = stride == 1 and inside == width

    def forward(self, x):
        made = self.norm2(self.project(self.norm1(self.expand(x)).relu()))
        return x + made if self.shortcut else made


def test_a_block_without_a_shortcut_among_its_like_is_one_point():
    blocks = [Inverted(4, 4, 1), Inverted(4, 6, 2), Inverted(6, 6, 1), Inverted(6, 8, 2)]
    net = nn.Sequential(conv(3, 4), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    found = names(net, torch.randn(2, 3, 8, 8))
    assert [name.removesuffix(".norm2") for name in found] == ["0", "1", "2", "3", "4"]


def test_blocks_of_which_none_has_a_shortcut_are_not_taken_for_one_point():
    net = nn.Sequential(conv(3, 4), Inverted(4, 6, 2), Inverted(6, 8, 2), nn.Flatten(), nn.Linear(32, 2))
    assert {"1.norm1", "2.norm1"} <= set(names(net, torch.randn(2, 3, 8, 8)))


@pytest.mark.parametrize("count", [2, 4, 7])
def test_cells_that_take_the_two_outputs_before_them_are_the_points(count):
    """NASNet, DARTS: each cell is jumped over by the output of the one before it."""

    def cell(self, before, now):
        a, b = self.left(before).relu(), self.right(now).relu()
        return a + self.inner(b) + b

    def forward(self, x):
        before = now = self.stem(x)
        for each in self.cells:
            before, now = now, each(before, now)
        return self.head(now)

    cells = [Apply(cell, left=nn.Linear(4, 4), right=nn.Linear(4, 4), inner=nn.Linear(4, 4)) for _ in range(count)]
    net = Apply(forward, stem=nn.Linear(3, 4), cells=nn.ModuleList(cells), head=nn.Linear(4, 2))
    inner = [f"cells.{k}" for k in range(count - 1)] if count > 3 else []
    found = names(net, torch.randn(5, 3))
    assert found[:1] + found[-1:] == ["stem", f"cells.{count - 1}"]
    assert set(inner[1:]) <= set(found)
    assert not [name for name in found if "." in name.removeprefix("cells.")]


def streams(batch=2):
    """Blocks of TNT (Han et al. 2021), which return pixels and patches: the first has another batch."""

    def block(self, pixels, patches):
        pixels = pixels + self.inner(pixels).relu()
        patches = patches + self.up(pixels.reshape(*patches.shape[:2], -1))
        return pixels, patches + self.outer(patches).relu()

    def forward(self, x):
        pixels = self.pixel(x.flatten(0, 1))
        patches = self.patch(pixels.reshape(*x.shape[:2], -1))
        for each in self.blocks:
            pixels, patches = each(pixels, patches)
        return self.head(self.norm(patches).mean(1))

    blocks = [Apply(block, inner=nn.Linear(6, 6), up=nn.Linear(24, 8), outer=nn.Linear(8, 8)) for _ in range(3)]
    layers = {
        "pixel": nn.Linear(3, 6),
        "patch": nn.Linear(24, 8),
        "norm": nn.LayerNorm(8),
        "head": nn.Linear(8, 5),
    }
    return Apply(forward, blocks=nn.ModuleList(blocks), **layers), torch.randn(batch, 9, 4, 3)


@pytest.mark.parametrize("batch", [2, 4])  # 4: as many as a patch has pixels
def test_of_a_tuple_the_tensor_with_the_batch_of_the_output_is_taken(batch):
    model, inputs = streams(batch)
    points = {point.name: point for point in gp.points(model, inputs)}
    assert points["blocks.0"].shape == (batch, 9, 8)
    assert points["blocks.0"].tensor == 1
    assert all(point.shape[0] == batch for point in points.values())


def test_a_sequence_first_layer_says_which_axis_is_the_batch():
    """As long as there are samples: the shape alone does not tell."""

    def forward(self, x):
        return self.head(self.rnn(x)[0].mean(0))

    net = Apply(forward, rnn=nn.GRU(3, 4), head=nn.Linear(4, 2))
    (point,) = gp.points(net, torch.randn(5, 5, 3))
    assert (point.batch, point.channels) == (1, 2)
    branch = gp.supervise(net, ["rnn"], inputs=torch.randn(5, 5, 3)).branches["at_rnn"]
    alone = torch.zeros(5, 5, 4)
    alone[:, 2] = torch.randn(5, 4)  # a sample among zeros
    assert [bool(row.any()) for row in branch(alone) - branch(torch.zeros(5, 5, 4))] == [
        False,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "returned",
    [lambda y: {"loss_box": y.mean()}, lambda y: [{"boxes": row[None]} for row in y], lambda y: y.mean()],
)
def test_a_network_that_returns_no_prediction_has_no_points_and_says_what_has(returned):
    net = Apply(lambda self, x: returned(self.box(self.body(x))), body=nn.Linear(3, 4), box=nn.Linear(4, 4))
    points = gp.points(net, torch.randn(2, 3))
    assert tuple(points) == ()
    assert "supervise a part of it, gp.supervise(model.part, ...)" in points.unserved["body"]
    with pytest.raises(ValueError, match=r"at 'body'|returns no prediction"):
        gp.supervise(net, ["body"], inputs=torch.randn(2, 3))


@pytest.mark.parametrize(("axis", "shape"), [(1, (4, 6)), (1, (2, 6, 5, 5)), (2, (2, 5, 6))])
def test_an_output_of_unit_length_is_recognised(axis, shape):
    def forward(self, x):
        return nn.functional.normalize(self.layer(x) if axis != 1 or x.dim() == 2 else self.conv(x), dim=axis)

    net = Apply(forward, layer=nn.Linear(6, 6), conv=conv(6, 6, 1))
    assert survey(net, torch.randn(shape)).activation == "unit_length"


def test_a_quotient_is_no_unit_length():
    net = Apply(lambda self, x: self.layer(x) / 2, layer=nn.Linear(6, 6))
    assert survey(net, torch.randn(4, 6)).activation is None


def detector():
    """Losses in training, a dict for each image in evaluation, as torchvision's detectors."""

    def forward(self, images, targets=None):
        made = self.body(torch.stack(images))
        scores, boxes = self.classes(made.mean((2, 3))), self.boxes(made.mean((2, 3)))
        if self.training:
            return {"classes": nn.functional.cross_entropy(scores, targets), "boxes": boxes.abs().mean()}
        return [{"boxes": box[None], "scores": score} for box, score in zip(boxes, scores, strict=True)]

    body = nn.Sequential(*(nn.Sequential(conv(3 if k == 0 else 8, 8), nn.ReLU()) for k in range(3)))
    return Apply(forward, body=body, classes=nn.Linear(8, 2), boxes=nn.Linear(8, 4))


@pytest.mark.parametrize("training", [True, False])
def test_of_a_detector_points_name_the_part_and_the_loss_and_its_batch_is_the_images(training):
    images = [torch.randn(3, 8, 8) for _ in range(4)]
    inputs, model = (images, torch.tensor([0, 1, 0, 1])), detector().train(training)
    assert survey(model, inputs).batch_size == 4
    points = gp.points(model, inputs)
    assert tuple(points) == ()
    for why in (points.unserved[f"body.{k}.0"] for k in range(3)):
        assert "gp.supervise(model.body, ...)" in why
        assert "branch_loss=" in why
    assert [point.name for point in gp.points(model.body, torch.stack(images))] == ["0", "1"]
