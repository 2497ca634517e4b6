import math

import pytest
import torch
from torch import nn

from gradprobe import DeepSupervisionLoss, SupervisedOutput
from gradprobe.loss import SCHEDULES


def test_the_cnds_schedule_is_recursive():
    weight, total = 0.3, 60
    for t in range(1, 61):
        weight *= 1 - t / total
        assert SCHEDULES["cnds"](0.3, t, total) == pytest.approx(weight)
    assert SCHEDULES["cnds"](0.3, 20, 60) == pytest.approx(0.0056, abs=5e-5)
    assert SCHEDULES["linear"](0.3, 20, 60) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_schedule_falls_below_zero_past_its_end(schedule):
    assert all(SCHEDULES[schedule](0.3, t, 5) >= 0 for t in range(12))


def test_the_joint_loss_and_its_gradient():
    main, first, second = (torch.tensor([value], requires_grad=True) for value in (1.0, 2.0, 3.0))
    criterion = DeepSupervisionLoss(nn.functional.mse_loss, weight=0.5, schedule="constant")
    loss = criterion(SupervisedOutput(main, (first, second)), torch.zeros(1))
    assert loss.item() == 1 + 0.5 * (4 + 9)
    loss.backward()
    assert [value.grad.item() for value in (main, first, second)] == [2.0, 2.0, 3.0]


def test_a_weight_of_zero_keeps_the_branch_in_the_graph():
    branch = torch.tensor([2.0], requires_grad=True)
    criterion = DeepSupervisionLoss(nn.functional.mse_loss, weight=0.0, schedule="constant")
    criterion(SupervisedOutput(torch.ones(1, requires_grad=True), (branch,)), torch.zeros(1)).backward()
    assert branch.grad.item() == 0


def test_a_plain_output_has_the_plain_loss():
    criterion = DeepSupervisionLoss(nn.CrossEntropyLoss(), total=3)
    scores, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert criterion(scores, target) == nn.functional.cross_entropy(scores, target)


def test_the_epoch_is_in_the_state_dict():
    criterion = DeepSupervisionLoss(nn.functional.mse_loss, total=10)
    for _ in range(4):
        criterion.step()
    resumed = DeepSupervisionLoss(nn.functional.mse_loss, total=10)
    resumed.load_state_dict(criterion.state_dict())
    assert resumed.epoch == 4
    assert resumed.weight == criterion.weight == pytest.approx(0.3 * math.prod(1 - t / 10 for t in range(1, 5)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": "cosine", "total": 3}, ValueError, "schedule= out of"),
        ({"schedule": "cnds"}, ValueError, "needs total="),
        ({"weight": -1, "total": 3}, ValueError, "at least 0"),
        ({"loss_fn": None, "total": 3}, TypeError, "callable"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DeepSupervisionLoss(**{"loss_fn": nn.functional.mse_loss, **arguments})
