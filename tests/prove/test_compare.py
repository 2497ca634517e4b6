import math

import numpy as np
import pytest
import torch
from torch import nn

import gradprobe as gp
from gradprobe.record.history import GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.verdict.comparison import Comparison, learning_frame
from gradprobe.zoo import digits, plain_mlp


def small():
    data = digits((64,), batch_size=128)
    return data.batches[:4], data.held_out


def test_both_arms_see_the_same_weights_batches_and_random_numbers():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 10))
    batches, _ = small()
    seen = []

    def loss(output, target):
        seen.append(float(nn.functional.cross_entropy(output.detach(), target)))
        return nn.functional.cross_entropy(output, target)

    placement = gp.Placement(
        "by hand", ("0",), gp.points(trunk, batches[0][0])[:1], "to see", output_shape=(128, 10)
    )
    # branches of weight 0 and with draws of their own: the trunk must train as if they were not there
    comparison = gp.compare(
        trunk,
        batches,
        loss,
        placement=placement,
        iterations=6,
        weight=0.0,
        branch=lambda point, output: nn.Sequential(nn.Dropout(0.5), nn.Linear(point[1], output[1])),
    )
    curves = {arm: rows["loss"].tolist() for arm, rows in comparison.frame.groupby("arm")}
    assert curves["plain"] == curves["supervised"]
    assert comparison.plain.frame.equals(comparison.supervised.frame)


@pytest.mark.parametrize("source", ["loader", "numpy"])
def test_data_with_a_generator_of_its_own(source):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    batches, _ = small()
    kept = batches[0][0].clone()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    rng = np.random.default_rng(0)

    def drawn():
        for _ in range(4):
            chosen = rng.permutation(len(x))[:16]
            yield x[chosen], y[chosen]

    dataset = torch.utils.data.TensorDataset(x, y)
    own = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(dataset, 16, shuffle=True, generator=own)
    placement = gp.Placement("by hand", ("1",), gp.points(trunk, x[:16])[:1], "to see", output_shape=(16, 10))
    comparison = gp.compare(
        trunk,
        loader if source == "loader" else drawn,
        nn.functional.cross_entropy,
        placement=placement,
        iterations=6,
        weight=0.0,
        branch="pooled",
    )
    curves = {arm: rows["loss"].tolist() for arm, rows in comparison.frame.groupby("arm")}
    assert torch.equal(batches[0][0], kept)
    if source == "loader":  # its generator is put back
        assert curves["plain"] == curves["supervised"]
    else:  # what it draws from cannot be known: no verdict, and the reason
        assert comparison.verdict == "cannot tell"
        assert "did not see the same batches" in str(comparison)


def test_seeds_that_share_their_weights_are_said_to():
    batches, held_out = small()
    net = plain_mlp(depth=30, width=16)
    comparison = gp.compare(
        net, batches, nn.functional.cross_entropy, iterations=12, seeds=(0, 1), held_out=held_out
    )
    assert not comparison.conditions["own_weights"]


def test_the_model_is_as_it_was():
    trunk = plain_mlp(depth=30, width=16)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    batches, held_out = small()
    comparison = gp.compare(trunk, batches, nn.functional.cross_entropy, iterations=4, held_out=held_out)
    assert comparison.supervised is not None
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())
    assert not any(module._forward_hooks for module in trunk.modules())


def test_the_gradient_comes_back_where_a_branch_is_placed():
    torch.manual_seed(0)
    batches, _ = small()
    comparison = gp.compare(plain_mlp(depth=30, width=16), batches, nn.functional.cross_entropy, iterations=4)
    assert comparison.placement.points
    assert (comparison.gradient["ratio"] >= 10).all()
    still = comparison.conditions["still_flagged"]
    assert set(still) < set(comparison.placement.flagged)
    assert ("would still be flagged" in str(comparison)) == bool(still)


def test_a_factory_gives_every_seed_its_own_weights():
    batches, held_out = small()
    comparison = gp.compare(
        lambda: plain_mlp(depth=30, width=16),
        batches,
        nn.functional.cross_entropy,
        iterations=3,
        seeds=(0, 1),
        held_out=held_out,
    )
    frame = comparison.frame
    assert set(frame["seed"]) == {0, 1}
    assert len(frame) == 2 * 2 * 3
    first = frame[frame["iteration"] == 0].set_index(["seed", "arm"])["loss"]
    assert first[0, "plain"] == first[0, "supervised"] != first[1, "plain"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"loss_fn": []},
            r"loss_fn to be a function \(output, target\) -> scalar, got list: give \(model, batches,",
        ),
        ({"model": 3}, "a torch.nn.Module or a function that builds one, got int"),
        ({"model": lambda: 3}, "a torch.nn.Module, got int"),
        ({"loss_fn": nn.CrossEntropyLoss}, r"got the class CrossEntropyLoss: give CrossEntropyLoss\(\)"),
        ({"model": nn.Linear(64, 10), "held_out": 3}, "expected held_out= to be an iterable"),
        ({"optimizer": torch.optim.Adam}, "got the class Adam"),
        ({"seeds": 3}, r"seeds= to be a sequence of whole numbers, such as range\(3\), got 3"),
        ({"seeds": ()}, r"one or more, got \(\)"),
        ({"iterations": 0}, "iterations= to be a whole number of at least 1, got 0"),
        ({"window": 2.5}, "window= to be a whole number of at least 1, got 2.5"),
        ({"placement": "0"}, "placement= to be what gp.place returns, got str"),
        ({"policy": "relative"}, r"got 'relative': give an object, gp.RelativePolicy\(\)"),
        ({"branch": "big"}, "branch= out of .* or a function, got 'big'"),
        ({"schedule": "exp"}, "schedule= out of"),
        ({"weight": -1}, "a weight of at least 0, got -1"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_trained(given, sentence):
    def never(*_):
        raise AssertionError("it trained")

    asked = {"model": nn.Linear(64, 10), "batches": small()[0], "loss_fn": never, "iterations": 3, **given}
    with pytest.raises((TypeError, ValueError), match=sentence):
        gp.compare(asked.pop("model"), asked.pop("batches"), asked.pop("loss_fn"), **asked)


def test_an_error_in_the_held_out_batches_says_where_it_is():
    batches, _ = small()
    with pytest.raises(RuntimeError) as raised:
        gp.compare(
            nn.Linear(64, 10),
            batches,
            nn.functional.cross_entropy,
            iterations=1,
            held_out=[(torch.ones(4, 9), torch.zeros(4, dtype=torch.int64))],
        )
    assert raised.value.__notes__ == ["held-out batch, inputs of shape (4, 9)"]


def test_no_branch_is_nothing_to_compare():
    batches, _ = small()
    comparison = gp.compare(plain_mlp(depth=2), batches, nn.functional.cross_entropy, iterations=2)
    assert comparison.verdict == "nothing to compare"
    assert "None needed" in comparison.placement.reason


def made(plain, supervised, *, size=0, chance=0.0, ratio=100.0):
    """A comparison from curves: a list of losses for each seed, or of accuracies where ``size`` is given."""
    layer = (Layer("conv1", 0, "Conv2d", 9),)
    point = Point("relu1", (8, 4, 5, 5), 0, ("conv1",))

    def history(value):
        return GradientHistory(
            tidy([(0, "conv1", 0, "output", value, value, value, 0.0, 0)]), {}, layer, (point,), (8, 10)
        )

    rows = []
    for arm, curves in (("plain", plain), ("supervised", supervised)):
        for seed, curve in enumerate(curves):
            for iteration, value in enumerate(curve):
                rows.append((seed, arm, iteration, 1.0 if size else value, value if size else math.nan))
    placement = gp.Placement("by hand", ("conv1",), (point,), "conv1 flagged", output_shape=(8, 10))
    conditions = {"iterations": len(plain[0]), "held_out": size, "chance": chance}
    return Comparison(history(1e-9), history(1e-9 * ratio), placement, learning_frame(rows), conditions)


def falling(end, count=100):
    return [2.3 + (end - 2.3) * i / (count - 1) for i in range(count)]


def flat(level, count=100):
    return [level + 0.02 * (-1) ** i for i in range(count)]


@pytest.mark.parametrize(
    ("comparison", "verdict", "sentence"),
    [
        (made([falling(2.0)], [falling(0.5)]), "helped", "It helped"),
        (made([falling(0.5)], [falling(2.0)]), "harmed", "It harmed"),
        (made([falling(0.5)], [falling(0.5)]), "no difference", "It did not help"),
        (made([flat(2.3)], [flat(2.3)]), "cannot tell", "Neither network learnt"),
        (made([[0.1, 0.1]], [[0.1, 0.9]], size=360, chance=0.1), "helped", "held-out accuracy"),
        (made([[0.1, 0.11]], [[0.1, 0.12]], size=360, chance=0.1), "cannot tell", "Neither network learnt"),
        # one seed of three learnt, which the mean hides: 0.71 is not three standard errors above 0.59
        (
            made([[0.5, 0.55]] * 3, [[0.5, 0.6], [0.5, 0.57], [0.5, 0.96]], size=128, chance=0.59),
            "no difference",
            "beyond the noise",
        ),
        # seeds that disagree: the mean is better, but not by more than their spread allows
        (made([[0.1, 0.5]] * 3, [[0.1, 0.4], [0.1, 0.5], [0.1, 0.9]], size=360), "no difference", "3 seeds"),
        (made([[0.1, 0.5]] * 3, [[0.1, 0.8], [0.1, 0.82], [0.1, 0.84]], size=360), "helped", "3 seeds"),
        # two seeds that happen to agree prove little (Student's t with one degree of freedom is 12.7) ...
        (made([[0.1, 0.6]] * 2, [[0.1, 0.7], [0.1, 0.72]], size=360), "no difference", "beyond the noise"),
        # ... and one proves nothing, unless one network learns and the other does not
        (made([[0.1, 0.6]], [[0.1, 0.75]], size=360, chance=0.1), "cannot tell", "One seed cannot tell"),
        (made([[0.1, 0.75]], [[0.1, 0.11]], size=360, chance=0.1), "harmed", "It harmed"),
    ],
)
def test_the_verdict_is_what_the_curves_say(comparison, verdict, sentence):
    assert comparison.verdict == verdict
    assert sentence in str(comparison)


def test_a_loss_that_ends_in_nan_is_not_better():
    assert made([falling(0.5)], [[*falling(0.5)[:-1], math.nan]]).verdict == "harmed"
    assert made([[math.nan] * 20], [[math.nan] * 20]).verdict == "cannot tell"
    assert made([[2.3, math.nan] * 20], [falling(0.5, 40)]).verdict == "helped"


@pytest.mark.parametrize(
    ("ratio", "sentence"),
    [
        (100, "The gradient came back: mean |dL/d output| of the 1 flagged layer (conv1) is 100 times"),
        (3, "The gradient rose"),
        (1, "The gradient did not come back"),
    ],
)
def test_the_sentence_on_the_gradient(ratio, sentence):
    assert sentence in str(made([falling(1)], [falling(1)], ratio=ratio))


@pytest.mark.slow
def test_a_deep_plain_net_is_rescued_and_the_verdict_says_so():
    # design, section 7: plain 24-layer ReLU net, default initialisation, digits, Adam: .08 without
    data = digits((64,), batch_size=64)
    comparison = gp.compare(
        lambda: plain_mlp(depth=24),
        data.batches,
        nn.functional.cross_entropy,
        optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=1e-3),
        held_out=data.held_out,
        iterations=600,
    )
    print(comparison)
    assert comparison.placement.points
    assert comparison.verdict == "helped"
