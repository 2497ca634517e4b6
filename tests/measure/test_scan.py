import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from gradprobe import DeepSupervisionLoss, scan
from gradprobe.measure.scan import Interrupted
from gradprobe.prove.repeat import place_repeatedly
from gradprobe.zoo import cnds8, cnds13, digits, plain_mlp


class Everything(nn.Module):
    """State of every kind that a training changes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.frozen_norm = nn.BatchNorm2d(3).eval().requires_grad_(False)
        self.spectral = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.calls = 0
        self.plain = torch.zeros(2)
        self.kept = {"log": [], "cache": {"sum": torch.zeros(1)}, "seen": set()}
        self.own = torch.Generator().manual_seed(3)

    def forward(self, x):
        self.calls += 1
        self.plain += torch.rand(2, generator=self.own)
        self.kept["log"].append(self.calls)
        self.kept["cache"]["sum"] += 1
        self.kept["seen"].add(self.calls)
        self.last_output = x
        self.seen = self.seen + 1
        self.hidden.add_(torch.rand(2) + random.random() + np.random.rand())  # noqa: NPY002
        x = self.frozen_norm(self.norm(self.conv(x)))
        return self.dropout(self.spectral(x.mean((2, 3))))


def state(net):
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        "values": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "objects": {name: id(tensor) for name, tensor in tensors.items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in net.named_parameters()},
        "training": {name: module.training for name, module in net.named_modules()},
        "attributes": {name: set(vars(module)) for name, module in net.named_modules()},
        "hooks": {name: len(module._forward_hooks) for name, module in net.named_modules()},
        "calls": getattr(net, "calls", None),
        "kept": str((net.plain, net.kept, net.own.get_state().sum())),
        "random": (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
    }


def assert_same(before, after):
    for kind, old in before.items():
        new = after[kind]
        if kind in ("values", "grads"):
            assert old.keys() == new.keys()
            for name in old:
                same = old[name] is new[name] is None or torch.equal(old[name], new[name])
                assert same, (kind, name)
        elif kind == "random":
            assert torch.equal(old[0], new[0])
            assert old[1:] == new[1:]
        else:
            assert old == new, kind


def batches():
    return [(torch.randn(6, 1, 5, 5), torch.randint(4, (6,))) for _ in range(2)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_grad", [True, False])
def test_the_model_is_bit_identical_afterwards(training, with_grad):
    net = Everything()
    data = batches()
    if with_grad:
        net(data[0][0]).sum().backward()
    net.training = training
    before = state(net)
    history = scan(net, data, nn.functional.cross_entropy, iterations=5)
    assert history.iterations == 5
    assert_same(before, state(net))


def test_the_model_is_bit_identical_after_an_error_of_its_own():
    net = Everything()
    before = state(net)

    def fails(output, target):
        if net.calls > 3:
            raise RuntimeError("the user's own")
        return nn.functional.cross_entropy(output, target)

    with pytest.raises(RuntimeError, match="the user's own"):
        scan(net, batches_without_drawing(), fails)
    assert_same(before, state(net))


def batches_without_drawing():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 1, 5, 5, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1]))]


def test_a_frozen_batch_norm_keeps_its_flag_while_it_runs():
    net = Everything()
    flags = []
    scan(
        net,
        batches_without_drawing(),
        lambda y, t: (flags.append(net.frozen_norm.training), nn.functional.cross_entropy(y, t))[1],
        iterations=2,
    )
    assert flags == [False, False]


def test_the_same_seed_gives_the_same_record():
    net = Everything()
    data = batches()
    first, second = (scan(net, data, nn.functional.cross_entropy, iterations=4, seed=3) for _ in range(2))
    assert first == second


def test_one_shot_iterators_are_repeated():
    net = nn.Linear(2, 1)
    generator = ((torch.full((1, 2), float(i)), None) for i in range(1, 3))
    history = scan(net, generator, lambda y, _: y.sum(), iterations=5, of="weight")
    assert history.frame["mean_abs"].tolist() == [1, 2, 1, 2, 1]


def test_inputs_as_keywords_and_positionals(two_inputs):
    x = torch.ones(3, 2)
    loss = lambda y, _: y.sum()  # noqa: E731
    positional = scan(two_inputs(nn.Linear(2, 1)), [((x, x), None)], loss, iterations=1)
    keywords = scan(two_inputs(nn.Linear(2, 1)), [({"a": x, "b": x}, None)], loss, iterations=1)
    whole = scan(two_inputs(nn.Linear(2, 1)), [{"a": x, "b": x}], loss, iterations=1)
    assert positional.aggregate("weight").tolist() == keywords.aggregate("weight").tolist() == [6.0]
    assert whole.conditions["batch_size"] == 3


def test_a_loss_that_becomes_nan_ends_the_record():
    net = nn.Linear(1, 1)
    count = iter(range(100))
    history = scan(
        net, [(torch.ones(2, 1), None)], lambda y, _: y.sum() * (float("nan") if next(count) == 3 else 1.0)
    )
    assert history.iterations == 4
    assert history.conditions["stopped"] == "the loss became nan at iteration 3"
    assert not history.conditions["complete"]
    assert (history.frame[history.frame["iteration"] == 3]["nonfinite"] > 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reduction_of_the_loss_is_a_condition(reduction):
    net, data = nn.Linear(1, 1), [(torch.ones(2, 1), torch.zeros(2, 1))]
    history = scan(net, data, nn.MSELoss(reduction=reduction), iterations=1)
    assert history.conditions["reduction"] == reduction
    joint = DeepSupervisionLoss(nn.MSELoss(reduction=reduction), schedule="constant")
    assert scan(net, data, joint, iterations=1).conditions["reduction"] == reduction


def test_a_reduction_that_is_not_known_is_no_condition_and_one_of_the_callers_is_kept():
    net, data = nn.Linear(1, 1), [(torch.ones(2, 1), torch.zeros(2, 1))]
    assert "reduction" not in scan(net, data, nn.functional.mse_loss, iterations=1).conditions
    history = scan(net, data, nn.MSELoss(), iterations=1, conditions={"reduction": "sum"})
    assert history.conditions["reduction"] == "sum"


def test_ctrl_c_keeps_what_was_recorded():
    net = nn.Linear(1, 1)
    before = copy.deepcopy(net.state_dict())

    def interrupt(reached):
        if reached.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        scan(net, [(torch.ones(2, 1), None)], lambda y, _: y.sum(), on_iteration=interrupt)
    assert caught.value.history.iterations == 3
    assert caught.value.history.conditions["stopped"] == "interrupted after 3 of 50 iterations"
    assert torch.equal(net.weight, before["weight"])


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda y, _: y, TypeError, r"a scalar, got a tensor of shape \(2, 1\): take its .mean\(\)"),
        (lambda y, _: 3.0, TypeError, "scalar tensor, got float"),
        (lambda y, _: y.detach().sum(), ValueError, "does not depend on any trainable parameter"),
    ],
)
def test_a_loss_that_cannot_be_differentiated_is_refused(loss, error, message):
    with pytest.raises(error, match=message):
        scan(nn.Linear(1, 1), [(torch.ones(2, 1), None)], loss)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "at least one batch"),
        (torch.ones(3), TypeError, "got one Tensor"),
        ([torch.ones(3, 2)], TypeError, r"Tensor of shape \(3, 2\) as batch 0"),
        (3, TypeError, "iterable of"),
    ],
)
def test_batches_that_are_none_are_refused(batches, error, message):
    with pytest.raises(error, match=message):
        scan(nn.Linear(1, 1), batches, lambda y, _: y.sum())


@pytest.mark.parametrize("loss_fn", [None, [(torch.ones(2, 1), None)]])
def test_a_loss_that_is_no_function_is_refused_with_the_order_of_the_arguments(loss_fn):
    with pytest.raises(TypeError, match=rf"got {type(loss_fn).__name__}: pass \(model, batches, loss_fn\)"):
        scan(nn.Linear(1, 1), torch.nn.functional.mse_loss, loss_fn)


def test_an_optimizer_has_to_be_a_function_of_the_model():
    net = nn.Linear(1, 1)
    with pytest.raises(TypeError, match="function from a model to its optimizer"):
        scan(net, [(torch.ones(2, 1), None)], lambda y, _: y.sum(), optimizer=torch.optim.SGD(net.parameters()))


def test_an_optimizer_that_needs_a_closure_is_refused():
    with pytest.raises(TypeError, match="LBFGS needs a closure in every step"):
        scan(
            nn.Linear(1, 1),
            [(torch.ones(2, 1), None)],
            lambda y, _: y.sum(),
            optimizer=lambda net: torch.optim.LBFGS(net.parameters()),
        )


def test_a_batch_that_does_not_fit_says_its_shape():
    with pytest.raises(RuntimeError) as caught:
        scan(nn.Linear(3, 1), [(torch.ones(2, 5), None)], lambda y, _: y.sum())
    assert "inputs of shape (2, 5)" in "".join(caught.value.__notes__)


def test_the_repeated_rule_goes_on_until_nothing_is_flagged():
    torch.manual_seed(0)
    net = plain_mlp(depth=40, width=24)
    data = digits((64,))
    placement = place_repeatedly(net, data.batches, nn.functional.cross_entropy, 3)
    names = [point.name for point in placement.points]
    assert len(names) >= 2
    depths = [point.depth for point in placement.points]
    assert depths == sorted(depths)
    assert "in place" in placement.reason


def test_cnds8_is_flagged_in_its_early_convolutions():
    torch.manual_seed(0)
    net = cnds8(width=0.125, image_size=69, classes=10, channels=1)
    data = digits((1, 69, 69), batch_size=32, pixel_range=255)
    history = scan(net, data.batches, nn.functional.cross_entropy, iterations=2)
    magnitudes = history.aggregate("output")
    assert magnitudes["conv1"] < magnitudes["conv4"] < 1e-7 < magnitudes["fc6"]
    # only the output's gradient reproduces the paper: that of the weights spans far fewer orders
    weights = history.aggregate("weight")
    assert weights.max() / weights.min() < 1e-2 * magnitudes.max() / magnitudes.min()


@pytest.mark.slow
def test_cnds13_gets_its_branches_where_the_paper_has_them():
    torch.manual_seed(0)
    net = cnds13(width=0.25, image_size=133, classes=10, channels=1)
    data = digits((1, 133, 133), batch_size=32, pixel_range=255)
    placement = place_repeatedly(net, data.batches, nn.functional.cross_entropy, 2, rounds=2)
    assert [point.name for point in placement.points] == ["relu4", "relu7", "relu10"]
