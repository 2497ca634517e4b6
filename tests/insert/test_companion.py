"""The companion objective of deeply-supervised nets."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradprobe import SupervisedOutput
from gradprobe.insert.companion import CompanionObjective, squared_hinge, squared_norm


def test_the_squared_hinge_by_hand():
    scores = torch.tensor([[2.0, 1.5, -3.0], [0.0, 1.0, 0.25]], dtype=torch.float64)
    # row 0, class 0: (1 - .5)^2 + 0; row 1, class 2: (1 - .25)^2 + (1 + .75)^2
    assert squared_hinge(scores, torch.tensor([0, 2])).item() == (0.25 + 0.5625 + 3.0625) / 2


def test_the_squared_hinge_is_torchs_times_the_classes():
    torch.manual_seed(0)
    scores, target = torch.randn(9, 5, dtype=torch.float64), torch.randint(5, (9,))
    expected = 5 * F.multi_margin_loss(scores, target, p=2)
    torch.testing.assert_close(squared_hinge(scores, target), expected)
    # a dense prediction is a batch of all its places
    dense, places = scores.reshape(3, 3, 5).movedim(2, 1), target.reshape(3, 3)
    torch.testing.assert_close(squared_hinge(dense, places), expected)


def test_the_squared_norm_leaves_biases_out_and_counts_a_shared_weight_once():
    layer = nn.Linear(2, 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    tied = nn.Linear(2, 1)
    tied.weight = layer.weight
    assert squared_norm(nn.Sequential(layer, nn.ReLU(), tied)).item() == 25
    assert squared_norm(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))).requires_grad
    assert squared_norm(nn.ReLU()).item() == 0


@pytest.fixture
def two_branches():
    net = nn.Module()
    net.branches = nn.ModuleDict({"a": nn.Linear(1, 2).double(), "b": nn.Linear(1, 2).double()})
    with torch.no_grad():
        net.branches["a"].weight.fill_(0.5)
        net.branches["b"].weight.fill_(1.0)
    return net


SCORED = torch.tensor([[2.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
HINGE = 2.5**2 / 2  # row 1: 1 - (.5 - 2) = 2.5


def test_the_companion_objective_by_hand(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, alpha=[0.5, 2], gamma=4.0, total=10)
    prediction = SupervisedOutput(SCORED, (SCORED, SCORED))
    main = F.cross_entropy(SCORED, LABELS)
    first, second = 0.0, 2 + HINGE - 4  # .5 + 3.125 is below gamma
    assert [term.item() for term in criterion.terms(prediction, LABELS)[1]] == [first, second]
    for t in range(3):
        joint = main + 2 * 0.1 * (1 - t / 10) * second
        assert criterion(prediction, LABELS).item() == pytest.approx(joint.item(), rel=1e-14)
        criterion.step()


def test_the_gradient_of_the_companion_objective(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, alpha=0.5, gamma=4.0, schedule="constant")
    criterion(SupervisedOutput(SCORED, (SCORED, SCORED)), LABELS).backward()
    first, second = two_branches.branches.values()
    assert first.weight.grad.flatten().tolist() == [0, 0]  # satisfied
    assert second.weight.grad.flatten().tolist() == [1, 1]  # 0.5 * 2 w
    assert second.bias.grad is None


def test_a_removed_branch_is_gone_from_the_companion_objective(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, schedule="constant")
    with pytest.raises(ValueError, match="each of net's 2 branches, got 1"):
        criterion(SupervisedOutput(SCORED, (SCORED,)), LABELS)
    del two_branches.branches["a"]
    assert criterion.terms(SupervisedOutput(SCORED, (SCORED,)), LABELS)[1][0].item() == 2 + HINGE


def test_the_network_is_no_part_of_the_companion_objective(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, schedule="constant")
    assert list(criterion.parameters()) == []
    assert list(criterion.modules()) == [criterion]
    assert set(criterion.state_dict()) == {"_extra_state"}


def test_the_companion_may_be_another_and_heads_are_dropped(two_branches):
    criterion = CompanionObjective(
        two_branches, F.cross_entropy, schedule="constant", drop_after=1, companion=F.cross_entropy
    )
    prediction = SupervisedOutput(SCORED, (SCORED, SCORED))
    plain = F.cross_entropy(SCORED, LABELS)
    assert criterion(prediction, LABELS).item() == pytest.approx((3 * plain + 2.5).item())
    criterion.step()
    assert criterion(prediction, LABELS) == plain


def test_the_companions_labels_may_be_in_the_batch(two_branches):
    criterion = CompanionObjective(
        two_branches, lambda output, batch: F.cross_entropy(output, batch["labels"]), schedule="constant"
    )
    first, second = criterion.terms(SupervisedOutput(SCORED, (SCORED, SCORED)), {"labels": LABELS})[1]
    assert (first.item(), second.item()) == (0.5 + HINGE, 2 + HINGE)


def test_a_network_without_branches_is_refused():
    with pytest.raises(TypeError, match=r"from gradprobe\.supervise, got Linear"):
        CompanionObjective(nn.Linear(1, 1), F.cross_entropy, total=3)
