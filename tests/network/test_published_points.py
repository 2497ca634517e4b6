"""Points at the places that were chosen by hand in the literature."""

from __future__ import annotations

import fnmatch
import warnings

import pytest
import torch
from support.networks.long_skips import HRNet
from support.networks.published import DETR
from support.networks.registry import Apply, built, expected_to_fail, images
from torch import nn

import gradprobe as gp
from gradprobe.zoo import cnds8

SHORT_DECODER = "two decoder layers have twelve layers on their longest path: taken for a block with its shortcut"


def names_like(points, pattern):
    return [point.name for point in points if fnmatch.fnmatchcase(point.name, pattern)]


def detr(layers):
    torch.manual_seed(0)
    return gp.points(DETR(layers), images())


@pytest.mark.parametrize("layers", [expected_to_fail(2, reason=SHORT_DECODER), 3, 6])
def test_every_decoder_layer_of_detr_with_an_auxiliary_loss_is_a_point(layers):
    """Carion et al. 2020 (DETR), section 3.2: "auxiliary losses in decoder"; the last layer's is the main one."""
    assert names_like(detr(layers), "decoder.?")[: layers - 1] == [f"decoder.{k}" for k in range(layers - 1)]


@pytest.mark.parametrize("layers", [2, 3, 6])
def test_every_encoder_layer_of_detr_is_a_point(layers):
    assert names_like(detr(layers), "encoder.?") == [f"encoder.{k}" for k in range(layers)]


@pytest.mark.parametrize("layers", [2, 3, 6])
def test_nothing_inside_a_branch_of_detr_is_a_point(layers):
    points = detr(layers)
    assert not [point.name for point in points if "attn" in point.name or "linear" in point.name]


def test_the_last_decoder_layer_of_detr_is_a_point():
    assert "decoder.5" in names_like(detr(6), "decoder.?")


def torch_transformer(layers, norm_first, dropout):
    torch.manual_seed(0)

    def forward(self, source, target):
        return self.head(self.body(self.source(source), self.target(target)))

    size = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "num_encoder_layers": layers}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "enable_nested_tensor is True")
        body = nn.Transformer(
            **size, num_decoder_layers=layers, dropout=dropout, batch_first=True, norm_first=norm_first
        )
    net = Apply(forward, source=nn.Linear(3, 4), target=nn.Linear(2, 4), body=body, head=nn.Linear(4, 5))
    return gp.points(net, (torch.randn(2, 6, 3), torch.randn(2, 5, 2)))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("layers", [2, 3, 6])
def test_layers_of_torch_s_transformer_but_the_last_are_points(layers, norm_first):
    points = torch_transformer(layers, norm_first, 0.1)
    for part in ("encoder", "decoder"):
        wanted = [f"body.{part}.layers.{k}" for k in range(layers - 1)]
        assert names_like(points, f"body.{part}.layers.?")[: layers - 1] == wanted


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_last_layer_of_torch_s_transformer_is_a_point(norm_first, part):
    name = f"body.{part}.layers.2"
    assert names_like(torch_transformer(3, norm_first, 0.1), name) == [name]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_no_attention_inside_torch_s_transformer_is_a_point(norm_first, dropout):
    """The first cross-attention is all that comes from the source, but the decoder's own stream is added to it."""
    points = torch_transformer(3, norm_first, dropout)
    assert not [point.name for point in points if "attn" in point.name or "linear" in point.name]


def test_where_cnds_branches_is_a_point():
    """Wang et al. 2015: the authors' training file taps conv3_2, the fourth convolution, after its ReLU."""
    points = gp.points(cnds8(width=0.05, image_size=69, classes=5, channels=1), torch.randn(2, 1, 69, 69))
    assert [point.name for point in points][:8] == [f"relu{k}" for k in range(1, 9)]
    assert points[3].layers == ("conv4",)


def test_the_last_but_one_stage_of_a_resnet_is_a_point():
    """Zhao et al. 2017 (PSPNet), section 3.3; also the auxiliary heads of torchvision's FCN and DeepLab."""
    assert "layer2.1" in [point.name for point in gp.points(*built("resnet"))]


@pytest.mark.parametrize("head", ["inception4a", "inception4d"])
def test_where_googlenet_has_its_heads_is_a_point(head):
    """Szegedy et al. 2015, section 5, with the heads in place and without."""
    model, x = built("googlenet")
    assert head in [point.name for point in gp.points(model, x)]
    assert head in [point.name for point in gp.points(model.eval(), x)]


def test_the_decoder_stages_of_nnunet_are_points():
    """Isensee et al. 2021: a head on every resolution of the decoder but the two lowest."""
    names = [point.name for point in gp.points(*built("nnunet"))]
    assert [f"decoder.{k}" for k in range(4)] == [name for name in names if fnmatch.fnmatchcase(name, "decoder.?")]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_stages_of_hrnet_are_points(stages):
    """Wang et al. 2019 (HRNet), section 3: every stage returns a list, one tensor for each resolution."""
    points = gp.points(HRNet(stages), images())
    assert [point.name for point in points] == ["relu", *(f"stages.{k}" for k in range(stages))]
