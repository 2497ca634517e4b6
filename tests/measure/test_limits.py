"""Set-ups at the edge of what can be measured: each is exact, or missing with a reason (docs/limits.md)."""

import pytest
import torch
from support.oracle import assert_agrees, record
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial

from gradprobe import GradientProbe
from gradprobe.measure.reduction import Reducer
from gradprobe.measure.reduction.values import PartialSumError

BATCHES = [(torch.randn(5, 3, generator=torch.Generator().manual_seed(i)).double(), None) for i in range(3)]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01)


def loss_of(output, target=None):
    return output.square().mean()


def trained(model, forward=None):
    optimizer = sgd(model)
    with GradientProbe(model, optimizer=optimizer, iterations=3) as probe:
        run = model if forward is None else forward(model)
        for x, _ in BATCHES:
            optimizer.zero_grad()
            loss_of(run(x)).backward()
            optimizer.step()
    return probe.history


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.mark.limit("`torch.compile` called for the first time inside the window", "exact", "exact")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of", ["the model", "a function"])
def test_what_is_compiled_inside_the_window(of):
    torch._dynamo.reset()

    def compiled(model):
        return torch.compile(model if of == "the model" else lambda x: model(x), backend="aot_eager")

    assert_agrees(trained(chain(), compiled), record(chain(), BATCHES, loss_of, 3))
    torch._dynamo.reset()


class View(nn.Linear):
    """A layer that returns the first columns of its result, as a view."""

    columns = 4

    def forward(self, x):
        return super().forward(x)[:, : self.columns]


class Changed(nn.Module):
    """Changes in place what a layer has returned."""

    def __init__(self, columns):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = View(3, 4), nn.Linear(columns, 2)
        self.a.columns = columns
        self.double()

    def forward(self, x):
        return self.b(self.a(x).mul_(3.0))


@pytest.mark.limit(
    "a view changed in place after its layer", "exact if it shows the whole tensor, else missing", "exact"
)
@pytest.mark.parametrize("columns", [4, 2])
def test_a_view_that_is_changed_in_place(columns):
    history, expected = trained(Changed(columns)), record(Changed(columns), BATCHES, loss_of, 3)
    if columns == 2:
        assert history.unreached["a"].keys() == {"output"}
        expected = {key: value for key, value in expected.items() if key[1:] != ("a", "output")}
    assert_agrees(history, expected)


@pytest.mark.limit("a gradient that is a partial sum over ranks (DTensor)", "refused", "refused")
def test_a_partial_sum_is_refused(process_group):
    gradient = DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (1,)), [Partial()])
    with pytest.raises(PartialSumError, match="no rank holds the true values"):
        Reducer().one(gradient)
