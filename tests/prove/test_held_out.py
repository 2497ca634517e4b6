"""What is measured on held-out data, by hand, and what is said where it cannot be measured."""

import math

import pytest
import torch
from torch import nn

from gradprobe.prove.held_out.measure import METRICS, HeldOut
from gradprobe.verdict.metric import ACCURACY, Metric


def measured(batches, metric=None, model=None, loss_fn=nn.functional.mse_loss):
    return HeldOut.checked(batches, metric, loss_fn).measure(model or nn.Identity())


def scores(labels, classes=3):
    """Scores whose largest is at these labels."""
    return nn.functional.one_hot(torch.tensor(labels), classes).movedim(-1, 1).float() * 5 - 2


# predicted 0 0 1 1 / 2 2 2 0, true 0 1 1 1 / 2 2 0 0
PREDICTED, TRUE = [[0, 0, 1, 1], [2, 2, 2, 0]], [[0, 1, 1, 1], [2, 2, 0, 0]]
# both, predicted, true of each class: 2 3 3, 2 2 3, 2 3 2
DICE, IOU = (4 / 6 + 4 / 5 + 4 / 5) / 3, (2 / 4 + 2 / 3 + 2 / 3) / 3


@pytest.mark.parametrize(
    "target",
    [
        torch.tensor(TRUE),
        torch.tensor(TRUE, dtype=torch.uint8)[:, None],
        torch.tensor(TRUE).float()[:, None],  # as MONAI has labels
        nn.functional.one_hot(torch.tensor(TRUE), 3).movedim(-1, 1),
    ],
    ids=["a map", "with a channel", "of floats", "one-hot"],
)
def test_overlap_by_hand(target):
    assert measured([(scores(PREDICTED), target)], "dice").value == pytest.approx(DICE)
    assert measured([(scores(PREDICTED), target)], "mean_iou").value == pytest.approx(IOU)


def test_overlap_is_of_all_held_out_data_whatever_the_batches():
    pairs = [(scores([p]), torch.tensor([t])) for p, t in zip(PREDICTED, TRUE, strict=True)]
    found = measured(pairs, "mean_iou")
    assert (found.value, found.size, found.metric) == (pytest.approx(IOU), 2, Metric("mean_iou"))


def test_what_is_no_class_does_not_count():
    predicted, true = scores([[0, 1, 2, 2]]), torch.tensor([[0, 1, 255, -100]])
    assert measured([(predicted, true)], "dice").value == 1
    found = measured([(scores([[0, 1, 1, 1]]), torch.tensor([[0, 1, 0, -100]]))], "accuracy")
    assert (found.value, found.size, found.chance) == (pytest.approx(2 / 3), 3, pytest.approx(2 / 3))


@pytest.mark.parametrize("shift", [0.0, 2.0], ids=["probabilities", "logits"])
def test_overlap_of_one_channel_is_that_of_the_foreground(shift):
    values = torch.tensor([0.9, 0.8, 0.2, 0.1])
    output = torch.logit(values) * shift if shift else values
    pair = (output.view(1, 1, 4), torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]))
    assert measured([pair], "dice").value == pytest.approx(2 / 3)
    assert measured([pair], "mean_iou").value == pytest.approx(1 / 2)


def test_without_a_metric_it_is_the_accuracy_or_the_loss():
    assert measured([(scores([[0, 1]]), torch.tensor([[0, 0]]))]).metric == ACCURACY
    found = measured([(torch.ones(3, 1), torch.zeros(3, 1)), (torch.full((1, 1), 3.0), torch.zeros(1, 1))])
    assert found.metric == Metric("loss", higher_is_better=False)
    assert (found.value, found.size) == ((3 * 1 + 1 * 9) / 4, 4), "weighted by the sizes of the batches"


def mae(output, target):
    return (output - target).abs().mean()


def test_a_metric_of_ones_own():
    mae.higher_is_better = False
    found = measured([(torch.ones(3, 1), torch.zeros(3, 1)), (torch.full((1, 1), 3.0), torch.zeros(1, 1))], mae)
    assert (found.metric, found.value) == (Metric("mae", higher_is_better=False), 6 / 4)


class Aggregated:
    """As MONAI has them: the largest error over all batches, which is no mean over batches."""

    higher_is_better = False

    def __init__(self):
        self.errors = [torch.tensor(9.0)]

    def reset(self):
        self.errors = []

    def __call__(self, output, target):
        self.errors.append((output - target).abs().max())

    def aggregate(self):
        return torch.stack(self.errors).max()


class Computed(Aggregated):
    """As torchmetrics has them."""

    update, compute = Aggregated.__call__, Aggregated.aggregate

    def __call__(self, output, target):
        raise AssertionError("update() is what collects")


@pytest.mark.parametrize("kind", [Aggregated, Computed])
def test_metrics_that_collect_batches(kind):
    metric = kind()
    held_out = HeldOut.checked([(torch.ones(3, 1), torch.zeros(3, 1))] * 2, metric, nn.functional.mse_loss)
    assert [held_out.measure(nn.Identity()).value for _ in range(2)] == [1, 1]
    assert metric.errors == [9], "the user's own is left as it was"


def test_a_value_that_is_no_number_is_infinitely_bad():
    def undefined(output, target):
        return float("nan")

    assert measured([(torch.ones(2, 1), torch.ones(2, 1))], undefined).value == -math.inf
    undefined.higher_is_better = False
    assert measured([(torch.ones(2, 1), torch.ones(2, 1))], undefined).value == math.inf


def raising(output, target):
    raise KeyError("dice")


@pytest.mark.parametrize(
    ("held_out", "metric", "sentence"),
    [
        ([], None, "at least one batch in held_out=, got none"),
        (None, "dice", "expected held_out= batches to take metric= on, got none"),
        ([(torch.ones(2, 1), torch.ones(2, 1))], "dise", "no metric is called 'dise'; did you mean 'dice'"),
        ([(torch.ones(2, 1), torch.ones(2, 1))], 3, "a name or a function .* got int"),
        ([(torch.ones(2, 1), torch.ones(2, 1))], nn.L1Loss, "got the class L1Loss"),
        ([(torch.ones(2, 1), torch.ones(2, 1))], raising, "the metric `raising` failed .*KeyError: 'dice' .*line"),
        ([(torch.ones(2, 1), torch.ones(2, 1))], lambda y, t: y, r"one number, got a tensor of shape \(2, 1\)"),
        ([(torch.ones(2, 1), torch.ones(2, 1))], lambda y, t: "x", "one number, got str"),
        (
            [(torch.ones(2, 3), torch.ones(2, 3))],
            "accuracy",
            r"got an output \(2, 3\) and a target \(2, 3\) of float",
        ),
        (
            [(torch.ones(2, 3, 4, 4), torch.ones(2, 8, 8))],
            "mean_iou",
            r"got an output \(2, 3, 4, 4\) and a target",
        ),
        ([(torch.ones(2, 3), torch.ones(2, 2))], None, "the loss failed on a held-out batch .*in eval mode"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_cannot_be_measured_is_said_in_one_sentence(held_out, metric, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence) as raised:
        measured(held_out, metric)
    assert "\n" not in str(raised.value)


def test_the_model_is_left_as_it_was_even_if_the_metric_raises():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout())
    model[0].eval()
    with pytest.raises(ValueError, match="failed") as raised:
        measured([(torch.randn(4, 1), torch.ones(4, 1))], raising, model)
    assert [module.training for module in model.modules()] == [True, False, True]
    assert model[0].num_batches_tracked == 0
    assert torch.is_grad_enabled(), raised


def test_the_command_line_knows_every_metric():
    from gradprobe.cli import options

    assert set(options.METRICS) == set(METRICS)


def test_a_loss_with_a_running_state_is_left_as_it_was():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, output, target):
            self.calls += 1
            self.mean += output.mean()
            return (output - target).square().mean() + self.mean

    loss = Running()
    held_out = HeldOut.checked([(torch.ones(2, 1), torch.zeros(2, 1))] * 2, None, loss)
    assert [held_out.measure(nn.Identity()).value for _ in range(2)] == [2, 2]
    assert (loss.calls, float(loss.mean)) == (0, 0)
