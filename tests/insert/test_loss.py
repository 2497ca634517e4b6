"""The joint loss: its schedules, the weights of its branches, and the same in compiled steps."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from support.losses import constant
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from gradprobe import DeepSupervisionLoss, SupervisedOutput
from gradprobe.insert.companion import CompanionObjective
from gradprobe.insert.loss import branch_weights
from gradprobe.insert.schedules import SCHEDULES
from gradprobe.record.points import Point

POINTS = [Point("a", (1, 2), 0, ("a",)), Point("b", (1, 2), 2, ("b",)), Point("c", (1, 2), 3, ("c",))]


# schedules


def test_the_cnds_schedule_is_recursive():
    weight, total = 0.3, 60
    for t in range(1, 61):
        weight *= 1 - t / total
        assert SCHEDULES["cnds"](0.3, t, total) == pytest.approx(weight)
    assert SCHEDULES["cnds"](0.3, 20, 60) == pytest.approx(0.0056, abs=5e-5)
    assert SCHEDULES["linear"](0.3, 20, 60) == pytest.approx(0.2)


def test_the_dsn_schedule_falls_from_a_tenth():
    assert [SCHEDULES["dsn"](0.5, t, 4) for t in range(6)] == pytest.approx([0.05, 0.0375, 0.025, 0.0125, 0, 0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_schedule_falls_below_zero_past_its_end(schedule):
    assert all(SCHEDULES[schedule](0.3, t, 5) >= 0 for t in range(12))


def test_the_epoch_is_in_the_state_dict():
    criterion = DeepSupervisionLoss(F.mse_loss, total=10)
    for _ in range(4):
        criterion.step()
    resumed = DeepSupervisionLoss(F.mse_loss, total=10)
    resumed.load_state_dict(criterion.state_dict())
    assert resumed.epoch == 4
    assert resumed.weight == criterion.weight == pytest.approx(0.3 * math.prod(1 - t / 10 for t in range(1, 5)))
    prediction = SupervisedOutput(torch.ones(1), (torch.ones(1),))
    assert resumed(prediction, torch.zeros(1)).item() == pytest.approx(1 + resumed.weight)


def test_the_weight_is_zero_from_drop_after_on():
    criterion = constant(weight=0.5, drop_after=2)
    prediction = SupervisedOutput(torch.ones(1), (torch.full((1,), 2.0),))
    losses = []
    for _ in range(4):
        losses.append(criterion(prediction, torch.zeros(1)).item())
        criterion.step()
    assert losses == [3, 3, 1, 1]
    assert criterion.weight == 0


# the joint loss


def test_the_joint_loss_and_its_gradient():
    main, first, second = (torch.tensor([value], requires_grad=True) for value in (1.0, 2.0, 3.0))
    criterion = constant(weight=0.5)
    loss = criterion(SupervisedOutput(main, (first, second)), torch.zeros(1))
    assert loss.item() == 1 + 0.5 * (4 + 9)
    loss.backward()
    assert [value.grad.item() for value in (main, first, second)] == [2.0, 2.0, 3.0]


def test_the_joint_loss_keeps_its_dtype():
    for dtype in (torch.float16, torch.float32, torch.float64):
        made = torch.ones(1, dtype=dtype)
        assert constant()(SupervisedOutput(made, (made,)), 0 * made).dtype == dtype


def test_a_plain_output_has_the_plain_loss():
    criterion = DeepSupervisionLoss(nn.CrossEntropyLoss(), total=3)
    scores, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert criterion(scores, target) == F.cross_entropy(scores, target)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda criterion: pickle.loads(pickle.dumps(criterion))])
def test_a_criterion_can_be_copied(copied):
    criterion = DeepSupervisionLoss(F.mse_loss, total=4, weights=[1, 2])
    criterion.step()
    made = SupervisedOutput(torch.ones(1), (torch.ones(1), torch.ones(1)))
    assert copied(criterion)(made, torch.zeros(1)) == criterion(made, torch.zeros(1))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("off", [{"weight": 0.0}, {"drop_after": 0}, {"weights": [0.0]}])
def test_an_unweighted_branch_that_diverged_harms_nothing(bad, off):
    trunk, branch = nn.Linear(2, 2), nn.Linear(2, 2)
    nn.init.constant_(branch.weight, bad)
    hidden = trunk(torch.ones(3, 2))
    loss = constant(**off)(SupervisedOutput(hidden, (branch(hidden),)), torch.zeros(3, 2))
    loss.backward()
    grad = trunk.weight.grad.clone()
    trunk.zero_grad()
    plain = F.mse_loss(trunk(torch.ones(3, 2)), torch.zeros(3, 2))
    plain.backward()
    assert loss.item() == plain.item()
    assert torch.equal(grad, trunk.weight.grad)
    assert branch.weight.grad is None


class Supervised(nn.Module):
    """Like a supervised network, with one branch."""

    def __init__(self, wrap=lambda scores, target: scores):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.wrap = nn.Linear(4, 8), nn.Linear(8, 3), wrap
        self.branches = nn.ModuleDict({"at_first": nn.Linear(8, 3)})

    def forward(self, x, target=None):
        hidden = torch.relu(self.first(x))
        return SupervisedOutput(self.wrap(self.last(hidden), target), (self.branches["at_first"](hidden),))


def test_distributed_data_parallel_still_sees_a_dropped_branch(process_group):
    net = Supervised()
    parallel = nn.parallel.DistributedDataParallel(net)
    criterion = constant(F.cross_entropy, drop_after=1)
    weight = net.branches["at_first"].weight
    for iteration in range(4):  # the second step after a branch went missing would raise
        parallel.zero_grad()
        criterion(parallel(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
        assert (weight.grad.abs().sum().item() > 0) == (iteration == 0)
        assert net.first.weight.grad.abs().sum() > 0
        criterion.step()


def test_a_weight_that_is_changed_in_mid_training_counts():
    criterion = constant(weight=0.5)
    criterion.initial = 2.0
    assert criterion(SupervisedOutput(torch.ones(1), (torch.ones(1),)), torch.zeros(1)) == 3


# weights of the branches


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("equal", [1, 1, 1]),
        ("halving", [1 / 7, 2 / 7, 4 / 7]),
        ("depth", [1 / 8, 3 / 8, 4 / 8]),
        ([0.5, 0, 2], [0.5, 0, 2]),
    ],
)
def test_the_weights_of_the_branches(weights, expected):
    assert branch_weights(weights, 3, POINTS) == pytest.approx(expected)
    criterion = constant(weight=0.5, weights=weights, points=POINTS)
    ones = torch.ones(1, dtype=torch.float64)
    made = SupervisedOutput(ones, (ones, 2 * ones, 3 * ones))
    joint = 1 + 0.5 * sum(w * loss for w, loss in zip(expected, (1, 4, 9), strict=True))
    assert criterion(made, 0 * ones).item() == pytest.approx(joint, rel=1e-14)


@pytest.mark.parametrize(("weights", "points"), [([1, 2], None), ("depth", POINTS)])
def test_weights_that_are_not_one_for_each_branch_are_refused(weights, points):
    criterion = constant(weights=weights, points=points)
    with pytest.raises(ValueError, match=r"each of the 1 branches, got [23]"):
        criterion(SupervisedOutput(torch.ones(1), (torch.ones(1),)), torch.zeros(1))
    assert criterion(SupervisedOutput(torch.ones(1), ()), torch.zeros(1)) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": "cosine", "total": 3}, ValueError, "schedule= out of"),
        ({"schedule": "cnds"}, ValueError, "needs total="),
        ({"weight": -1, "total": 3}, ValueError, "at least 0"),
        ({"loss_fn": "mse", "total": 3}, TypeError, "loss_fn to be callable, got str"),
        ({"map_target": 3, "total": 3}, TypeError, "map_target to be callable, got int"),
        ({"drop_after": -1, "total": 3}, ValueError, "drop_after="),
        ({"weights": "half", "total": 3}, ValueError, "weights= out of"),
        ({"weights": [1, -1], "total": 3}, ValueError, "at least 0"),
        ({"weights": "depth", "total": 3}, ValueError, "needs points="),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DeepSupervisionLoss(**{"loss_fn": F.mse_loss, **arguments})


# torch.compile


def scores_of(output):
    if isinstance(output, torch.Tensor):
        return output
    if type(output) is tuple:
        return output[1]
    return output["logits"] if isinstance(output, dict) else output.logits


WRAPS = {
    "tensor": lambda scores, target: scores,
    "dict": lambda scores, target: {"loss": F.cross_entropy(scores, target), "logits": scores},
    "tuple": lambda scores, target: (F.cross_entropy(scores, target), scores),
    "ModelOutput": lambda scores, target: SequenceClassifierOutput(F.cross_entropy(scores, target), scores),
}


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in net.parameters()]


# torch.compile's own, while it traces an autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("wrap", "own"), [*((wrap, False) for wrap in WRAPS), ("dict", True), ("ModelOutput", True)]
)
def test_a_compiled_step_is_the_eager_one_in_every_epoch(wrap, own):
    torch._dynamo.reset()
    net = Supervised(WRAPS[wrap])
    loss_fn = None if own else lambda output, target: F.cross_entropy(scores_of(output), target)
    criterion = DeepSupervisionLoss(loss_fn, schedule="linear", total=50, drop_after=12, weights="halving")
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph

    step = torch.compile(lambda x, y: criterion(net(x, y), y), backend=backend, fullgraph=True)
    for _ in range(14):
        expected = criterion(net(x, y), y)
        wanted = gradients(net, expected)
        compiled = step(x, y)
        torch.testing.assert_close(compiled, expected)
        torch.testing.assert_close(gradients(net, compiled), wanted)
        criterion.step()
    assert len(compilations) == 2  # with the branch, and without


def test_a_compiled_step_with_the_companion_objective():
    torch._dynamo.reset()
    net = Supervised()
    criterion = CompanionObjective(net, F.cross_entropy, gamma=0.1, total=20)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    compiled = torch.compile(lambda x, y: criterion(net(x), y), backend="eager", fullgraph=True)(x, y)
    torch.testing.assert_close(compiled, criterion(net(x), y))


# torch.compile's own, where the graph ends at reading a value
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_own_loss_is_found_in_a_compiled_step():
    torch._dynamo.reset()
    net, criterion = Supervised(WRAPS["ModelOutput"]), constant(None)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    compiled = torch.compile(lambda x, y: criterion(net(x, y), y), backend="eager")(x, y)
    assert criterion._branches.candidates == ("cross entropy",)
    torch.testing.assert_close(compiled, criterion(net(x, y), y))
