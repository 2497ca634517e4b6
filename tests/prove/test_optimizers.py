"""An optimizer that was built already: each training has a copy, and the original stays as it is."""

import copy

import pytest
import torch
from support.trainings import LOSS, deep, small
from torch import nn

import gradprobe as gp
from gradprobe.prove.optimizers import CopiedOptimizer, as_factory


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))


def step(model, optimizer):
    optimizer.zero_grad()
    x, y = small()[0][0]
    LOSS(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    ],
    ids=["Adam", "SGD", "AdamW", "RMSprop"],
)
def test_a_copy_steps_as_the_original_would_from_its_state(build):
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    optimizer = build(groups)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # puts a wrapper around step()
    for _ in range(3):
        step(model, optimizer)
    twin, theirs = copy.deepcopy((model, optimizer))
    before = copy.deepcopy(optimizer.state_dict())
    copied = CopiedOptimizer(optimizer, model)(model)
    step(model, copied)
    step(twin, theirs)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for index, state in before["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after["state"][index][key])), key


def test_branches_get_a_group_and_what_was_left_out_stays_out():
    model = net()
    optimizer = torch.optim.SGD([{"params": [model[0].weight], "lr": 0.5}], lr=0.1, momentum=0.9)
    copied = CopiedOptimizer(optimizer, model)
    supervised = gp.supervise(model, ["1"], inputs=small()[0][0][0])
    groups = copied(supervised).param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.1]
    assert groups[1]["momentum"] == 0.9
    assert [id(one) for one in groups[1]["params"]] == [id(one) for one in supervised.branches.parameters()]


def test_a_comparison_with_an_optimizer_is_that_with_the_function():
    batches, held_out = small()
    torch.manual_seed(0)
    model = deep()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    setting = {"iterations": 6, "window": 3, "held_out": held_out}
    given = gp.compare(model, batches, LOSS, optimizer=optimizer, **setting)
    built = gp.compare(
        model, batches, LOSS, optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=0.01), **setting
    )
    assert given.supervised is not None
    assert given.frame.equals(built.frame)
    assert not optimizer.state


def test_parameters_of_the_loss_are_its_own():
    model, loss = net(), nn.PReLU()
    assert as_factory(torch.optim.SGD([*model.parameters(), *loss.parameters()], 0.1), model, loss)(model)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [(net(), "one of 4 parameters of which 4 are none of the model's"), (net, "the model is built anew")],
)
def test_an_optimizer_of_another_model_is_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        gp.compare(model, small()[0], LOSS, optimizer=torch.optim.SGD(net().parameters(), 0.1))
