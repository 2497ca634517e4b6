"""Branches where they are usual: decoder stages, decoder layers, plain chains."""

import pytest

from gradprobe.decide.usual import BranchesPolicy, along_chain
from gradprobe.record.evidence import Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point


def history(shapes, output, evidence=None, rows=()):
    layers = tuple(Layer(name, depth, "Conv2d", 9) for depth, name in enumerate(shapes))
    points = tuple(
        Point(name, shape, depth, (name,), 1 if len(shape) > 3 else None, 0, 0)
        for depth, (name, shape) in enumerate(shapes.items())
    )
    return GradientHistory(tidy(list(rows)), {}, layers, points, output, evidence=evidence)


def maps(**sizes):
    return {name: (2, 4, size, size) for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("shapes", "output", "names"),
    [
        # nnU-Net: every decoder resolution but the output's own and the lowest
        (
            maps(down1=32, down2=16, down3=8, bottom=4, up3=8, up2=16, up1=32),
            (2, 3, 32, 32),
            ["up2"],
        ),
        (maps(d1=64, d2=32, d3=16, d4=8, b=4, u4=8, u3=16, u2=32, u1=64), (2, 3, 64, 64), ["u3", "u2"]),
        # the end of each stage
        (maps(down=16, bottom=8, up=16, up_again=16, last=32), (2, 3, 32, 32), ["up_again"]),
        # what is resized by interpolation after its last layer: all that is below the output
        (maps(down=8, bottom=4, up=8), (2, 3, 32, 32), ["up"]),
        # a classifier: the resolution never rises
        (maps(one=32, two=16, three=8), (2, 10), []),
        # a generator: it rises from the first layer on
        (maps(one=4, two=8, three=16), (2, 3, 32, 32), ["three"]),
    ],
)
def test_dense_prediction_has_branches_at_decoder_stages(shapes, output, names):
    placement = BranchesPolicy()(history(shapes, output))
    assert [point.name for point in placement.points] == names
    assert placement.weights == ("halving" if names else None)
    assert placement.rule == "branches"


def streams(memory, queries, layers, name="decoder.layers"):
    return {f"encoder.{i}": (2, memory, 8) for i in range(2)} | {
        f"{name}.{i}": (2, queries, 8) for i in range(layers)
    }


@pytest.mark.parametrize(
    ("shapes", "output", "names"),
    [
        (streams(49, 10, 4), (2, 10, 5), ["decoder.layers.0", "decoder.layers.1", "decoder.layers.2"]),
        (streams(49, 10, 3), ((2, 10, 5), (2, 10, 4)), ["decoder.layers.0", "decoder.layers.1"]),  # boxes as well
        (streams(49, 10, 2), (2, 7), []),  # one answer for all queries
        (streams(10, 10, 2, "encoder"), (2, 10, 5), []),  # one stream: a language model
    ],
)
def test_a_decoder_of_queries_has_a_branch_at_each_layer_but_the_last(shapes, output, names):
    placement = BranchesPolicy()(history(shapes, output))
    assert [point.name for point in placement.points] == names
    assert placement.weights is None


def chain(shares, spreads):
    """Layers in a row, with the share of the gradient and the spread of the signal of each."""
    names = [f"fc{i}" for i in range(len(shares))]
    evidence = Evidence.from_rows(
        [(0, n, s, 1.0, 0, 0, 0, 0, 16, 1e-3, 1.0) for n, s in zip(names, spreads, strict=True)], {}, {}
    )
    # of outputs of 16 elements the L2 norm is rms x 4: shares are ratios of rms
    rows = [
        (0, n, d, "output", share, share, share, 0.0, 0)
        for d, (n, share) in enumerate(zip(names, shares, strict=True))
    ]
    made = history(dict.fromkeys(names, (2, 8)), (2, 8), evidence, rows)
    points = made.points[:-1]
    return GradientHistory(made.frame, {}, made.layers, points, (2, 8), evidence=evidence)


def test_along_a_chain_each_branch_is_where_the_gradient_has_faded_since_the_one_before():
    shares = [1e-9, 1e-7, 1e-5, 5e-4, 5e-2, 1.0]
    points, why = along_chain(chain(shares, [1.0] * 6))
    # from the output: 5e-4 < 1e-2; then 1e-7 < 5e-6 (1e-5 is not); then 1e-9 is not below 1e-9
    assert [point.name for point in points] == ["fc1", "fc3"]
    assert "2 branches" in why


def test_where_the_signal_is_lost_there_is_no_branch():
    points, why = along_chain(chain([1e-9, 5e-7, 1e-5, 5e-4, 5e-2, 1.0], [1, 1, 0.5, 1e-3, 1e-5, 1e-7]))
    assert [point.name for point in points] == ["fc0", "fc2"]
    assert "At 2 of 5 points the signal is lost" in why


def test_where_the_gradient_arrives_there_is_none():
    points, why = along_chain(chain([0.5, 0.2, 0.3, 1.0], [1.0] * 4))
    assert (points, why) == ((), "None needed: the gradient arrives at every point.")
