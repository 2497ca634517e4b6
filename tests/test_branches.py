import pytest
import torch
from torch import nn

from gradprobe import BRANCHES, C1DeepSup, CNDSBranch, conv3x3_bn_relu
from gradprobe.branches import build_branch


def test_the_cnds_branch_is_the_authors():
    # CNDS-8 at 227: conv4 leaves 27x27; 5x5/2 average pool -> 12x12, 1x1 conv to 64, FC 1024 twice, FC classes
    branch = CNDSBranch((1, 256, 27, 27), (1, 1000))
    shapes = {name: tuple(parameter.shape) for name, parameter in branch.named_parameters() if "weight" in name}
    assert shapes == {
        "conv.weight": (64, 256, 1, 1),
        "fc1.weight": (1024, 64 * 12 * 12),
        "fc2.weight": (1024, 1024),
        "fc3.weight": (1000, 1024),
    }
    assert branch.dropout.p == 0.5
    assert (branch.pool.kernel_size, branch.pool.stride) == ((5, 5), 2)


def test_the_cnds_branch_computes_what_it_says():
    torch.manual_seed(0)
    branch = CNDSBranch((2, 3, 7, 7), (2, 4)).eval()
    x = torch.randn(2, 3, 7, 7)
    pooled = torch.stack([x[:, :, i : i + 5, j : j + 5].mean((2, 3)) for i in (0, 2) for j in (0, 2)], -1)
    hidden = torch.einsum("oc,ncp->nop", branch.conv.weight[:, :, 0, 0], pooled) + branch.conv.bias[:, None]
    hidden = hidden.flatten(1)
    for fc in (branch.fc1, branch.fc2):
        hidden = (hidden @ fc.weight.T + fc.bias).clamp(min=0)
    torch.testing.assert_close(branch(x), hidden @ branch.fc3.weight.T + branch.fc3.bias)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 13])
def test_the_cnds_branch_takes_maps_of_every_size(size):
    assert CNDSBranch((2, 3, size, size), (2, 4))(torch.zeros(2, 3, size, size)).shape == (2, 4)


@pytest.mark.parametrize(
    ("point", "output", "kind"),
    [
        ((8, 64, 28, 28), (8, 10), "CNDSBranch"),
        ((8, 64, 112, 112), (8, 10), "PooledBranch"),  # the first FC would have 190 million weights
        ((8, 64), (8, 10), "PooledBranch"),
        ((8, 4, 6, 6, 6), (8, 10), "PooledBranch"),
        ((8, 16, 14, 14), (8, 21, 56, 56), "DenseBranch"),
        ((8, 12, 32), (8, 10), "TokenBranch"),
        ((8, 12, 32), (8, 12, 100), "TokenBranch"),
    ],
)
def test_auto_chooses_by_shape_and_the_branch_fits(point, output, kind):
    branch = build_branch("auto", point, output)
    assert type(branch).__name__ == kind
    assert branch(torch.zeros(point)).shape == output


def test_a_function_of_both_shapes_wins():
    seen = []

    def mine(point_shape, output_shape):
        seen.append((point_shape, output_shape))
        return nn.Flatten()

    assert isinstance(build_branch(mine, (2, 3, 4, 4), (2, 5)), nn.Flatten)
    assert seen == [((2, 3, 4, 4), (2, 5))]


@pytest.mark.parametrize("kind", ["auto", *BRANCHES])
def test_shapes_that_no_branch_suits_are_named_with_the_way_out(kind):
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4, 4, 4\).*shape \(2, 1, 4, 4, 4\).*branch=lambda"):
        build_branch(kind, (2, 3, 4, 4, 4), (2, 1, 4, 4, 4))


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="expected branch= out of"):
        build_branch("resnet", (2, 3), (2, 3))
    with pytest.raises(TypeError, match=r"return a torch\.nn\.Module, got int"):
        build_branch(lambda *_: 3, (2, 3), (2, 3))
    with pytest.raises(TypeError, match="a name or a function"):
        build_branch(3, (2, 3), (2, 3))


def test_the_segmentation_head_of_the_source_article():
    head = C1DeepSup(num_class=6, fc_dim=32)
    maps = [torch.randn(2, 16, 8, 8), torch.randn(2, 32, 4, 4)]
    output, auxiliary = head(maps)
    for scores in (output, auxiliary):
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(2, *scores.shape[2:]))
    head.eval()
    probabilities = head(maps, segSize=(31, 33))
    assert probabilities.shape == (2, 6, 31, 33)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 31, 33))
    loss = nn.functional.nll_loss(output, torch.zeros(2, 4, 4, dtype=torch.long))
    loss.backward()
    assert head.cbr_deepsup[0].weight.grad is None
    assert head.cbr[0].weight.grad is not None


def test_conv3x3_bn_relu_is_what_it_is_called():
    kinds = [type(module) for module in conv3x3_bn_relu(3, 5)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert conv3x3_bn_relu(3, 5)[0].bias is None
