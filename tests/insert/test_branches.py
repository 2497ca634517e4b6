import copy
import pickle

import pytest
import torch
from torch import nn

from gradprobe import BRANCHES, C1DeepSup, CNDSBranch, conv3x3_bn_relu
from gradprobe.insert.branches import (
    Branch,
    DenseBranch,
    ListBranch,
    NativeBranch,
    PooledBranch,
    SharedBranch,
    SVMBranch,
    TokenBranch,
    build_branch,
)


def normals(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def layer_normed(x, norm):
    """Over the last axis, by hand."""
    spread = x.var(-1, correction=0, keepdim=True) + norm.eps
    return (x - x.mean(-1, keepdim=True)) / spread.sqrt() * norm.weight + norm.bias


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


FIRST, LAST = {"channels": 1}, {"channels": -1}
SERVED = [
    # vectors
    ((8, 64, 28, 28), (8, 10), {}, "CNDSBranch"),
    ((8, 28, 28, 64), (8, 10), LAST, "CNDSBranch"),
    ((8, 6, 5, 5), (8,), {}, "CNDSBranch"),
    ((2, 64, 112, 112), (2, 10), {}, "PooledBranch"),  # the first FC would have 190 million weights
    ((8, 64), (8, 10), {}, "PooledBranch"),
    ((8, 64), (8,), {}, "PooledBranch"),
    ((1, 64), (1, 1), {}, "PooledBranch"),
    ((8, 16, 12), (8, 10), FIRST, "PooledBranch"),
    ((8, 4, 6, 6, 6), (8, 10), {}, "PooledBranch"),
    ((8, 6, 6, 6, 4), (8, 10), LAST, "PooledBranch"),
    ((8, 4, 2, 2, 2, 2), (8, 10), {}, "PooledBranch"),
    ((8, 12, 32), (8, 10), {}, "TokenBranch"),
    ((8, 12, 32), (8,), {}, "TokenBranch"),
    ((8, 12, 1), (8, 10), {}, "TokenBranch"),
    ((12, 8, 32), (8, 10), {}, "TokenBranch"),  # sequence-first
    # sequences
    ((8, 12, 32), (8, 12, 100), {}, "TokenBranch"),
    ((8, 12, 32), (8, 5, 100), {}, "TokenBranch"),
    ((8, 12, 32), (8, 30, 100), {}, "TokenBranch"),
    ((8, 12, 32), (8, 12, 32), {}, "TokenBranch"),
    ((8, 12, 32), (8, 100, 12), {}, "TokenBranch"),  # scores before time, as CrossEntropyLoss wants them
    ((8, 12, 32), (8, 100, 12), {"output_channels": 1}, "TokenBranch"),
    ((12, 8, 32), (8, 12, 100), {}, "TokenBranch"),
    ((12, 8, 32), (12, 8, 100), {}, "TokenBranch"),
    ((12, 8, 32), (24, 8, 100), {}, "TokenBranch"),
    ((8, 32, 12), (8, 100, 12), {}, "DenseBranch"),
    ((8, 32, 12), (8, 100, 24), FIRST | {"output_channels": 1}, "DenseBranch"),
    ((8, 32, 12), (8, 100, 24), {"output_channels": 1}, "DenseBranch"),
    ((8, 32, 12), (8, 12, 100), FIRST, "DenseBranch"),
    ((8, 32, 12), (8, 6, 100), FIRST, "DenseBranch"),
    ((8, 16, 4, 24), (8, 20, 37), {}, "TokenBranch"),  # text recognition
    ((8, 16, 4, 24), (20, 8, 37), {}, "TokenBranch"),  # as CTCLoss wants it
    ((8, 7, 7, 16), (8, 100, 92), LAST, "TokenBranch"),  # detection queries
    ((8, 4, 3, 3, 3), (8, 20, 5), {}, "TokenBranch"),
    # maps
    ((8, 16, 14, 14), (8, 21, 56, 56), {}, "DenseBranch"),
    ((8, 14, 14, 16), (8, 21, 56, 56), LAST, "DenseBranch"),
    ((8, 14, 14, 16), (8, 56, 56, 21), LAST | {"output_channels": 3}, "DenseBranch"),
    ((8, 16, 14, 14), (8, 21, 7, 9), {}, "DenseBranch"),
    ((8, 16, 14, 10), (8, 56, 40), {}, "DenseBranch"),  # depth: one map each
    ((8, 16, 14, 10), (8, 7, 5), {}, "DenseBranch"),
    ((2, 3, 4, 4, 4), (2, 1, 4, 4, 4), {}, "DenseBranch"),
    ((2, 4, 4, 4, 3), (2, 2, 8, 8, 8), LAST, "DenseBranch"),
    ((2, 3, 4, 4, 2), (2, 8, 8, 4), {}, "DenseBranch"),
    ((2, 49, 16), (2, 5, 28, 28), {}, "DenseBranch"),  # the patches of a vision transformer
    ((2, 50, 16), (2, 5, 28, 28), {}, "DenseBranch"),  # and its class token
    ((2, 33, 16), (2, 5, 16, 32), {}, "DenseBranch"),
    ((2, 27, 16), (2, 5, 12, 12, 12), {}, "DenseBranch"),
    ((1, 16, 1, 1), (1, 5, 8, 8), {}, "DenseBranch"),  # batch normalisation would fail on these four
    ((1, 3, 1, 1), (1, 5, 8, 8), {}, "DenseBranch"),
    ((1, 16, 1), (1, 5, 8), FIRST | {"output_channels": 1}, "DenseBranch"),
    ((1, 2, 16), (1, 5, 8, 8), {}, "DenseBranch"),
    # no other way
    ((2, 8), (2, 3, 16, 16), {}, "PooledBranch"),  # a generator
    ((2, 8), (2, 7, 20), {}, "PooledBranch"),
    ((2, 48, 16), (2, 5, 28, 28), {}, "PooledBranch"),  # no such grid
    ((2, 8, 4, 4, 4), (2, 3, 8, 8), {}, "PooledBranch"),
    ((2, 8, 4, 4), (2, 3, 2, 2, 2, 2), {}, "PooledBranch"),
]


@pytest.mark.parametrize(("point", "output", "axes", "kind"), SERVED)
def test_auto_chooses_by_shape_and_the_branch_fits_and_learns(point, output, axes, kind):
    branch = build_branch("auto", point, output, **axes)
    assert type(branch).__name__ == kind
    assert isinstance(branch, Branch)
    prediction = branch(torch.randn(point))
    assert prediction.shape == output
    assert branch(torch.randn(point), like=torch.zeros(output)).shape == output
    prediction.square().sum().backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(("point", "output", "axes", "kind"), SERVED)
def test_predictions_are_finite_and_differ_with_the_point(point, output, axes, kind):
    torch.manual_seed(0)
    branch = build_branch("auto", point, output, **axes).eval()
    one, other = branch(torch.randn(point)), branch(torch.randn(point))
    assert one.isfinite().all()
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "point", "output", "axes"),
    [
        ("native", (8, 16, 14, 14), (8, 21, 14, 14), {}),
        ("native", (8, 14, 14, 16), (8, 14, 14, 21), LAST | {"output_channels": 3}),
        ("token", (8, 16, 14, 14), (8, 21), {}),
        ("svm", (8, 16, 14, 14), (8, 21), {}),
        ("svm", (8, 14, 14, 16), (8,), LAST),
        ("svm", (8, 16), (8, 21), {}),
        ("svm", (8, 12, 16), (8, 21), {}),
        ("svm", (8, 3, 4, 4, 4), (8, 21), {}),
        ("pooled", (8, 12, 16), (8, 21), {}),
        ("pooled", (8, 16, 4, 4), (8, 21, 4, 4), {}),
        ("cnds", (8, 6, 6, 16), (8, 21), LAST),
    ],
)
def test_a_branch_asked_for_by_name_fits_and_learns(kind, point, output, axes):
    branch = build_branch(kind, point, output, **axes)
    assert type(branch) is BRANCHES[kind]
    prediction = branch(torch.randn(point))
    assert prediction.shape == output
    prediction.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in branch.parameters())


@pytest.mark.parametrize(
    ("kind", "recorded", "now", "axes"),
    [
        ("cnds", ((2, 4, 8, 8), (2, 3)), ((3, 4, 11, 5), (3, 3)), {}),
        ("cnds", ((2, 4, 8, 8), (2, 3)), ((3, 4, 2, 2), (3, 3)), {}),
        ("svm", ((2, 4, 8, 8), (2, 3)), ((3, 4, 11, 5), (3, 3)), {}),
        ("pooled", ((2, 4, 8, 8), (2, 3)), ((3, 4, 11, 5), (3, 3)), {}),
        ("pooled", ((2, 4), (2, 3, 8, 8)), ((3, 4), (3, 3, 10, 12)), {}),
        ("dense", ((2, 4, 8, 8), (2, 3, 16, 16)), ((1, 4, 5, 6), (1, 3, 10, 12)), {}),
        ("dense", ((2, 8, 8, 4), (2, 16, 16, 3)), ((3, 5, 6, 4), (3, 10, 12, 3)), LAST | {"output_channels": -1}),
        ("dense", ((2, 4, 8, 8), (2, 16, 16)), ((3, 4, 5, 6), (3, 10, 12)), {}),
        ("dense", ((2, 4, 8), (2, 3, 8)), ((3, 4, 5), (3, 3, 11)), {}),
        ("dense", ((2, 4, 4, 4, 4), (2, 3, 8, 8, 8)), ((3, 4, 5, 6, 7), (3, 3, 10, 12, 14)), {}),
        ("dense", ((2, 17, 4), (2, 3, 16, 16)), ((3, 13, 4), (3, 3, 12, 16)), {}),
        ("native", ((2, 16, 4), (2, 3, 4, 4)), ((3, 12, 4), (3, 3, 3, 4)), {}),
        ("token", ((2, 7, 4), (2, 7, 3)), ((3, 9, 4), (3, 9, 3)), {}),
        ("token", ((2, 7, 4), (2, 7, 3)), ((3, 9, 4), (3, 4, 3)), {}),
        ("token", ((2, 7, 4), (2, 3)), ((3, 9, 4), (3, 3)), {}),
        ("token", ((7, 2, 4), (7, 2, 3)), ((9, 3, 4), (9, 3, 3)), {}),
        ("token", ((7, 2, 4), (2, 7, 3)), ((9, 3, 4), (3, 9, 3)), {}),
    ],
)
def test_batches_of_other_sizes_follow_the_output(kind, recorded, now, axes):
    branch = build_branch(kind, *recorded, **axes)
    assert branch(torch.randn(now[0]), like=torch.zeros(now[1])).shape == now[1]


def test_without_the_output_the_recorded_size_is_used():
    branch = DenseBranch((2, 4, 8, 8), (2, 3, 16, 16))
    assert branch(torch.randn(2, 4, 5, 5)).shape == (2, 3, 16, 16)


def test_the_pooled_branch_averages_over_all_positions_wherever_the_channels_are():
    x = normals(2, 4, 5, 3)
    branch = PooledBranch((2, 4, 5, 3), (2, 6), channels=3).double()
    expected = torch.einsum("nhwc,kc->nk", x, branch.fc.weight) / 20 + branch.fc.bias
    torch.testing.assert_close(branch(x), expected)


def test_the_pooled_branch_lays_its_numbers_out_channels_first():
    x = normals(2, 4)
    branch = PooledBranch((2, 4), (2, 5, 6, 3), output_channels=3).double()
    numbers = (x @ branch.fc.weight.T + branch.fc.bias).reshape(2, 3, 5, 6)
    torch.testing.assert_close(branch(x), numbers.permute(0, 2, 3, 1))


def test_one_number_each_comes_without_channels():
    x = normals(5, 4)
    branch = PooledBranch((5, 4), (5,)).double()
    torch.testing.assert_close(branch(x), x @ branch.fc.weight[0] + branch.fc.bias)


@pytest.mark.parametrize("size", [(5,), (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("kind", ["dense", "native", "pooled", "svm"])
def test_channels_last_equals_channels_first_after_a_permutation(kind, size):
    vector = kind in ("pooled", "svm")
    first, last = (2, 8, *size), (2, *size, 8)
    outputs = ((2, 3), (2, 3)) if vector else ((2, 3, *size), (2, *size, 3))
    one = build_branch(kind, first, outputs[0], channels=1, output_channels=1).double()
    other = build_branch(kind, last, outputs[1], channels=-1, output_channels=-1).double()
    other.load_state_dict(one.state_dict())
    x = normals(*first)
    prediction = other(x.movedim(1, -1))
    torch.testing.assert_close(prediction if vector else prediction.movedim(-1, 1), one(x))


def test_the_dense_branch_computes_what_it_says():
    x = normals(2, 8, 3, 4)
    branch = DenseBranch((2, 8, 3, 4), (2, 5, 3, 4)).double()
    wide = nn.functional.pad(x, (1, 1, 1, 1))
    patches = torch.stack([wide[:, :, i : i + 3, j : j + 4] for i in range(3) for j in range(3)], -1)
    hidden = torch.einsum("nchwp,ocp->nohw", patches, branch.cbr[0].weight.flatten(2))
    spread = hidden.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    hidden = ((hidden - hidden.mean((0, 2, 3), keepdim=True)) / spread.sqrt()).clamp(min=0)
    expected = torch.einsum("nchw,kc->nkhw", hidden, branch.conv.weight[:, :, 0, 0])
    torch.testing.assert_close(branch(x), expected + branch.conv.bias[:, None, None])


@pytest.mark.parametrize(("size", "larger"), [((3,), (6,)), ((3, 4), (6, 8)), ((2, 3, 4), (4, 6, 8))])
def test_the_native_branch_is_the_dense_one_before_it_is_resized(size, larger):
    dense = DenseBranch((2, 8, *size), (2, 5, *larger), channels=1, output_channels=1)
    native = NativeBranch((2, 8, *size), (2, 5, *larger), channels=1, output_channels=1)
    native.load_state_dict(dense.state_dict())
    x = torch.randn(2, 8, *size)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    assert native(x).shape == (2, 5, *size)
    torch.testing.assert_close(nn.functional.interpolate(native(x), larger, mode=mode), dense(x))


def test_tokens_are_a_map_in_rows_without_the_class_token():
    tokens = normals(2, 9, 8)
    branch = NativeBranch((2, 9, 8), (2, 5, 4, 8)).double()
    onto_map = NativeBranch((2, 8, 2, 4), (2, 5, 4, 8)).double()
    onto_map.load_state_dict(branch.state_dict())
    laid_out = torch.stack([tokens[:, 1:5], tokens[:, 5:9]], 1).permute(0, 3, 1, 2)
    torch.testing.assert_close(branch(tokens), onto_map(laid_out))


def test_the_token_branch_computes_what_it_says_in_every_layout():
    x = normals(2, 7, 4)
    branch = TokenBranch((2, 7, 4), (2, 7, 3)).double()
    expected = torch.einsum("ntc,kc->ntk", layer_normed(x, branch.norm), branch.fc.weight) + branch.fc.bias
    torch.testing.assert_close(branch(x), expected)
    for point, output, order in [((7, 2, 4), (2, 7, 3), (0, 1, 2)), ((7, 2, 4), (2, 3, 7), (0, 2, 1))]:
        other = TokenBranch(point, output).double()
        other.load_state_dict(branch.state_dict())
        torch.testing.assert_close(other(x.transpose(0, 1)), expected.permute(order))


def test_one_answer_for_a_sequence_is_that_of_its_mean():
    x = normals(2, 7, 4)
    branch = TokenBranch((2, 7, 4), (2, 3)).double()
    mean = torch.einsum("ntc->nc", x) / 7
    torch.testing.assert_close(branch(x), layer_normed(mean, branch.norm) @ branch.fc.weight.T + branch.fc.bias)


def test_a_map_is_read_in_rows_and_neighbours_are_averaged_for_fewer_tokens():
    x = normals(2, 4, 2, 6)
    branch = TokenBranch((2, 4, 2, 6), (2, 4, 3)).double()
    thirds = x.reshape(2, 4, 4, 3).mean(3).transpose(1, 2)
    expected = layer_normed(thirds, branch.norm) @ branch.fc.weight.T + branch.fc.bias
    torch.testing.assert_close(branch(x), expected)


def test_the_svm_branch_is_one_linear_layer_on_the_flattened_map():
    x = normals(2, 3, 4, 5)
    branch = SVMBranch((2, 3, 4, 5), (2, 6)).double()
    assert branch.fc.weight.shape == (6, 3 * 4 * 5)
    weight = branch.fc.weight.reshape(6, 3, 4, 5)
    torch.testing.assert_close(branch(x), torch.einsum("nchw,kchw->nk", x, weight) + branch.fc.bias)


def test_the_svm_branch_pools_a_map_that_is_too_large():
    # 64 x 112 x 112 x 100 = 8e7 weights; 51 x 51 is the largest square within 2^24: 51^2 x 6400 = 16,646,400
    branch = SVMBranch((2, 64, 112, 112), (2, 100))
    assert branch.fc.weight.shape == (100, 64 * 51 * 51)
    assert SVMBranch((2, 64, 200, 20), (2, 100)).size == (131, 20)  # 131 x 20 x 6400 = 16,768,000
    with torch.no_grad():
        branch.fc.weight.fill_(1 / (64 * 51 * 51))
        branch.fc.bias.zero_()
    mean = branch(torch.full((1, 64, 112, 112), 3.0))
    torch.testing.assert_close(mean, torch.full((1, 100), 3.0), rtol=1e-3, atol=0)  # a float32 sum of 166,464


def test_a_single_channel_is_not_normalised_away():
    branch = TokenBranch((2, 5, 1), (2, 5, 3))
    x = torch.randn(2, 5, 1)
    torch.testing.assert_close(branch(x), x * branch.fc.weight[:, 0] + branch.fc.bias)


class Language(nn.Module):
    """Tokens through a linear layer to a vocabulary."""

    def __init__(self, vocabulary=5000):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, vocabulary, bias=False)


@pytest.mark.parametrize(
    ("point", "output"), [((2, 7, 4), (2, 7, 5000)), ((2, 4), (2, 5000)), ((2, 4, 3, 3), (2, 6, 5000))]
)
def test_a_vocabulary_is_shared_with_the_trunk(point, output):
    trunk = Language()
    branch = build_branch("auto", point, output, head=trunk.head)
    assert branch.head is trunk.head
    assert sorted(branch.state_dict()) == ["norm.bias", "norm.weight"]
    assert not {id(parameter) for parameter in branch.parameters()} & {id(trunk.head.weight)}
    prediction = branch(torch.randn(point))
    assert prediction.shape == output
    prediction.square().mean().backward()
    for parameter in (*branch.parameters(), trunk.head.weight):
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_few_classes_get_a_head_of_their_own():
    assert isinstance(build_branch("auto", (2, 7, 4), (2, 7, 4095), head=nn.Linear(4, 4095)), TokenBranch)
    assert isinstance(build_branch("auto", (2, 7, 4), (2, 7, 4096), head=nn.Linear(4, 4096)), SharedBranch)
    assert isinstance(build_branch("auto", (2, 7, 4), (2, 7, 5000), head=nn.Linear(4, 5001)), TokenBranch)
    assert isinstance(build_branch("auto", (2, 7, 4), (2, 7, 5000)), TokenBranch)


def test_the_shared_branch_computes_what_it_says():
    head = nn.Linear(4, 6).double()
    x = normals(2, 7, 3)
    branch = SharedBranch((2, 7, 3), (2, 7, 6), head=head).double()
    hidden = layer_normed(x, branch.norm) @ branch.project.weight.T + branch.project.bias
    torch.testing.assert_close(branch(x), torch.einsum("ntc,kc->ntk", hidden, head.weight) + head.bias)


@pytest.mark.parametrize(
    ("head", "point", "output"),
    [
        (nn.Conv2d(4, 6, 1), (2, 4, 5, 5), (2, 6, 10, 10)),
        (nn.Conv2d(3, 6, 1), (2, 4, 5, 5), (2, 6, 10, 10)),
        (nn.Conv2d(4, 6, 1), (2, 4, 5, 5), (2, 6)),
        (nn.Conv2d(4, 6, 1), (2, 26, 4), (2, 6, 10, 10)),
        (nn.Conv1d(4, 6, 1), (2, 9, 4), (2, 9, 6)),
        (nn.Conv3d(4, 6, 1), (2, 4, 3, 3, 3), (2, 6, 3, 3, 3)),
        (nn.Linear(4, 6), (2, 4, 5, 5), (2, 6, 10, 10)),
        (nn.Linear(4, 6), (2, 4, 5, 5), (2, 6)),
        (nn.Linear(4, 1), (2, 4), (2,)),
    ],
)
def test_a_head_is_shared_in_every_family(head, point, output):
    branch = build_branch("shared", point, output, head=head)
    prediction = branch(torch.randn(point))
    assert prediction.shape == output
    prediction.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (*branch.parameters(), *head.parameters()))


def test_a_pointwise_convolution_and_a_linear_layer_are_the_same_head():
    linear, conv = nn.Linear(4, 6).double(), nn.Conv2d(4, 6, 1).double()
    conv.load_state_dict({"weight": linear.weight.data[:, :, None, None], "bias": linear.bias.data})
    shapes = (2, 4, 3, 5), (2, 6, 3, 5)
    x = normals(*shapes[0])
    one, other = (SharedBranch(*shapes, head=head).double() for head in (linear, conv))
    torch.testing.assert_close(one(x), other(x))
    expected = torch.einsum("nhwc,kc->nkhw", layer_normed(x.permute(0, 2, 3, 1), one.norm), linear.weight)
    torch.testing.assert_close(one(x), expected + linear.bias[:, None, None])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_the_shared_head_stays_the_trunks_through_copies(again):
    trunk = Language()
    trunk, branch = again((trunk, SharedBranch((2, 7, 4), (2, 7, 5000), head=trunk.head)))
    assert branch.head is trunk.head
    trunk.double()
    assert branch.double()(normals(2, 7, 4)).dtype == torch.float64


def test_the_shared_head_is_called_as_a_module():
    # fully sharded layers gather their weights in hooks around the call
    trunk, called = Language(), []
    trunk.head.register_forward_hook(lambda *_: called.append(True))
    SharedBranch((2, 7, 4), (2, 7, 5000), head=trunk.head)(torch.zeros(2, 7, 4))
    assert called == [True]


def test_a_list_of_outputs_gets_a_branch_for_each():
    shapes = ((2, 9, 8, 8), (2, 9, 4, 4), (2, 100, 4), (2, 5))
    branch = build_branch("auto", (2, 8, 8, 8), shapes)
    assert isinstance(branch, ListBranch)
    kinds = [type(each).__name__ for each in branch.branches]
    assert kinds == ["DenseBranch", "DenseBranch", "TokenBranch", "CNDSBranch"]
    predictions = branch(torch.randn(2, 8, 8, 8))
    assert [tuple(each.shape) for each in predictions] == list(shapes)
    sum(each.square().sum() for each in predictions).backward()
    assert all(parameter.grad.isfinite().all() for parameter in branch.parameters())
    now = [torch.zeros(3, 9, 12, 12), torch.zeros(3, 9, 6, 6), torch.zeros(3, 50, 4), torch.zeros(3, 5)]
    predictions = branch(torch.randn(3, 8, 12, 12), like=now)
    assert [each.shape for each in predictions] == [each.shape for each in now]


def test_a_list_of_outputs_by_name_and_by_function():
    shapes = ((2, 9, 8, 8), (2, 9, 4, 4))
    branch = build_branch("native", (2, 8, 6, 6), shapes)
    assert [type(each).__name__ for each in branch.branches] == ["NativeBranch", "NativeBranch"]
    seen = []
    build_branch(lambda *both: seen.append(both) or nn.Identity(), (2, 8, 6, 6), shapes)
    assert seen == [((2, 8, 6, 6), shapes)]


COMPILED = [
    ("cnds", (2, 4, 7, 7), (2, 3), {}),
    ("svm", (2, 4, 7, 7), (2, 3), {}),
    ("pooled", (2, 4), (2, 3, 6, 6), {}),
    ("dense", (2, 8, 4, 4), (2, 3, 8, 8), {}),
    ("dense", (2, 8, 4, 4, 4), (2, 3, 8, 8, 8), {}),
    ("dense", (2, 17, 8), (2, 3, 8, 8), {}),
    ("dense", (2, 4, 4, 8), (2, 8, 8), LAST),
    ("token", (2, 7, 8), (2, 5, 3), {}),
    ("token", (7, 2, 8), (2, 3), {}),
    ("shared", (2, 7, 8), (2, 7, 5), {"head": nn.Linear(6, 5)}),
    ("auto", (2, 8, 6, 6), ((2, 3, 6, 6), (2, 5)), {}),
]


def example(kind, point, output, arguments):
    torch.manual_seed(0)
    branch = build_branch(kind, point, output, **arguments).eval()
    several = isinstance(output[0], tuple)
    return branch, torch.randn(point), [torch.zeros(s) for s in output] if several else torch.zeros(output)


@pytest.mark.parametrize(("kind", "point", "output", "arguments"), COMPILED)
def test_compiled_whole_they_compute_the_same(kind, point, output, arguments):
    torch._dynamo.reset()
    branch, x, like = example(kind, point, output, arguments)
    compiled = torch.compile(branch, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, like=like), branch(x, like=like))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
@pytest.mark.parametrize(
    ("kind", "point", "arguments"),
    [
        ("dense", lambda k: (2, k, k + 2, 8), LAST),
        ("dense", lambda k: (2, k * (k + 2), 8), {}),
        ("shared", lambda k: (2, 8, k, k + 2), {"head": nn.Conv2d(8, 5, 1)}),
    ],
)
def test_compiled_they_follow_batches_of_other_sizes(kind, point, arguments):
    torch._dynamo.reset()
    branch = build_branch(kind, point(4), (2, 5, 16, 24), **arguments).eval()
    compiled = torch.compile(branch, fullgraph=True)
    for k in (4, 5):  # the second size is compiled as one of any size
        x, like = torch.randn(point(k)), torch.zeros(2, 5, 4 * k, 4 * k + 8)
        prediction = compiled(x, like=like)
        torch.testing.assert_close(prediction, branch(x, like=like))
    prediction.sum().backward()


@pytest.mark.parametrize(("kind", "point", "output", "arguments"), COMPILED)
def test_under_autocast_they_compute_nearly_the_same(kind, point, output, arguments):
    branch, x, like = example(kind, point, output, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        low = branch(x.bfloat16(), like=like)
    for mine, full in zip(
        *((y if isinstance(y, list) else [y]) for y in (low, branch(x, like=like))), strict=True
    ):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.float(), full, atol=0.1, rtol=0.1)


def test_a_function_of_both_shapes_wins():
    seen = []

    def mine(point_shape, output_shape):
        seen.append((point_shape, output_shape))
        return nn.Flatten()

    assert isinstance(build_branch(mine, (2, 3, 4, 4), (2, 5)), nn.Flatten)
    assert seen == [((2, 3, 4, 4), (2, 5))]


@pytest.mark.parametrize(
    ("kind", "point", "output", "arguments", "why"),
    [
        ("auto", (8, 5), (4, 3), {}, "8 against 4 along the batch"),
        ("auto", (8, 5, 6), (4, 3), {}, "8 against 4 along the batch"),
        ("auto", (8,), (8, 3), {}, ""),
        ("auto", (8, 5), (), {}, ""),
        ("auto", (8, 5, 4, 4), (8, 3), {"channels": 4}, r"axis 4 of \(8, 5, 4, 4\) cannot be the channels"),
        ("auto", (8, 5, 4, 4), (8, 3), {"channels": 0}, r"axis 0 of \(8, 5, 4, 4\) cannot be the channels"),
        ("auto", (8, 5, 4, 4), (8, 3), {"output_channels": -2}, r"axis -2 of \(8, 3\) cannot be the channels"),
        ("auto", (2, 512), (2, 3, 256, 256), {}, "a linear layer of 100663296 weights"),
        ("pooled", (2, 512, 4, 4), (2, 3, 256, 256), {}, "a linear layer of 100663296 weights"),
        ("cnds", (2, 3, 4, 4, 4), (2, 5), {}, "it takes a map to a vector"),
        ("cnds", (2, 3, 4, 4), (2, 1, 4, 4), {}, "it takes a map to a vector"),
        ("dense", (2, 3), (2, 1, 4, 4), {}, "to a map"),
        ("dense", (2, 3, 4, 4), (2, 5), {}, "to a map"),
        ("native", (2, 6, 3), (2, 1, 4, 4), {}, "tokens of its proportions, to a map"),
        ("dense", (2, 3, 2, 2, 2, 2), (2, 3, 2, 2, 2, 2), {}, "to a map"),
        ("token", (2, 3), (2, 5), {}, "it takes positions"),
        ("token", (2, 3, 4, 4), (2, 1, 4, 4), {}, "to tokens or to a vector"),
        ("svm", (2, 3, 4, 4), (2, 1, 4, 4), {}, "to a vector"),
        ("svm", (2, 3, 2, 2, 2, 2), (2, 5), {}, "up to three dimensions"),
        ("shared", (2, 7, 4), (2, 7, 9), {}, "expected the trunk's last layer .* 9 numbers, got None"),
        ("shared", (2, 7, 4), (2, 7, 9), {"head": nn.Linear(4, 8)}, r"9 numbers, got Linear\("),
        ("shared", (2, 7, 4), (2, 7, 9), {"head": nn.ReLU()}, r"9 numbers, got ReLU\("),
        ("shared", (2, 4, 5, 5), (2, 9, 5, 5), {"head": nn.Conv2d(4, 9, 3)}, r"9 numbers, got Conv2d\("),
        ("shared", (2, 7, 4), (2, 7, 9), {"head": nn.Conv2d(4, 9, 1)}, r"Conv2d\(.* cannot be applied to such"),
        ("shared", (2, 4), (2, 7, 9), {"head": nn.Linear(4, 9)}, r"Linear\(.* cannot be applied to such"),
        ("shared", (2, 4, 5, 5), (2, 9, 5, 5, 5), {"head": nn.Linear(4, 9)}, "cannot be applied to such"),
    ],
)
def test_shapes_that_no_branch_suits_are_named_with_the_way_out(kind, point, output, arguments, why):
    shapes = rf"no '\w+' branch from a point of shape {point} to an output of shape {output}"
    shapes = shapes.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"{shapes}.*{why}.*: pass branch=lambda point_shape, output_shape"):
        build_branch(kind, point, output, **arguments)


def test_tokens_that_are_no_grid_any_more_are_refused():
    branch = DenseBranch((2, 16, 8), (2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"grid of the output's proportions \(8, 8\), got 12"):
        branch(torch.zeros(2, 12, 8))


def test_a_prediction_of_many_dimensions_has_the_recorded_size():
    branch = PooledBranch((2, 4), (2, 3, 2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"recorded size \(2, 2, 2, 2\), got \(3, 2, 2, 2\)"):
        branch(torch.zeros(2, 4), like=torch.zeros(2, 3, 3, 2, 2, 2))


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


@pytest.mark.parametrize(("dimensions", "conv"), [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_conv3x3_bn_relu_in_other_dimensions(dimensions, conv):
    block = conv3x3_bn_relu(3, 5, stride=2, dimensions=dimensions)
    assert type(block[0]) is conv
    assert block(torch.zeros(2, 3, *[6] * dimensions)).shape == (2, 5, *[3] * dimensions)
