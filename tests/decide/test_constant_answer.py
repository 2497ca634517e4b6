"""The best answer that does not depend on the input: with several outputs a constant of each."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import gradprobe as gp
from gradprobe.decide.causes.facts import Reading
from gradprobe.measure.evidence.loss_facts import LossFacts
from gradprobe.measure.evidence.loss_graph import OutputUse

STEPS, BATCH = 1, 64  # what a loss is given is looked at in some iterations only, in the first one always


def recorded(net, targets, loss_fn):
    """Train on these targets, in turns of a batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    inputs = torch.randn(len(targets), 3, generator=torch.Generator().manual_seed(2))
    with gp.GradientProbe(net, optimizer=optimizer, iterations=STEPS) as probe:
        for x, y in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
            optimizer.zero_grad()
            loss_fn(net(x), y).backward()
            optimizer.step()
    return Reading(probe.history)


def drawn(units):
    """Targets whose means differ far more between the units than within one."""
    generator = torch.Generator().manual_seed(1)
    return torch.linspace(-4, 4, units) + 0.1 * torch.randn(STEPS * BATCH, units, generator=generator)


@pytest.mark.parametrize("far", [0.0, 1e3], ids=["near zero", "far from zero"])
def test_of_squares_it_is_the_variance_within_the_units(far):
    y = (drawn(5) + far).contiguous()
    reading = recorded(nn.Linear(3, 5), y, functional.mse_loss)
    assert reading.constant == pytest.approx(float(y.double().var(0).mean()), rel=1e-2 if far else 1e-4)


def test_over_several_batches_with_other_means():
    y, facts = drawn(5), LossFacts()
    y[BATCH // 2 :] += 1
    for part in y.split(BATCH // 2):
        facts.add(OutputUse("fc", [], "mse", tuple(part.shape), target=part))
    assert facts.result()[0]["target_units"]["variance"] == pytest.approx(
        float(y.double().var(0).mean()), rel=1e-5
    )


def test_summed_over_what_a_batch_has():
    y = drawn(5)
    reading = recorded(nn.Linear(3, 5), y, lambda a, b: functional.mse_loss(a, b, reduction="sum"))
    assert reading.constant == pytest.approx(BATCH * 5 * float(y.double().var(0).mean()), rel=1e-4)


def test_of_shares_it_is_the_entropy_of_each_unit():
    shares = torch.tensor([0.05, 0.5, 0.9])
    y = torch.bernoulli(shares.expand(STEPS * BATCH, 3), generator=torch.Generator().manual_seed(0))
    reading = recorded(nn.Linear(3, 3), y, functional.binary_cross_entropy_with_logits)
    count = STEPS * BATCH
    entropies = [
        -p * math.log(p) - (1 - p) * math.log(1 - p) + 1 / (2 * count) for p in y.double().mean(0).tolist()
    ]
    assert reading.constant == pytest.approx(sum(entropies) / 3, rel=1e-4)


def test_of_one_unit_it_is_the_variance_of_all():
    y = drawn(1)
    reading = recorded(nn.Linear(3, 1), y, functional.mse_loss)
    assert reading.constant == pytest.approx(float(y.double().var(correction=0)), rel=1e-3)


def test_batches_with_other_numbers_of_units_are_taken_together():
    y = drawn(4)
    net = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    with gp.GradientProbe(net, optimizer=optimizer, iterations=2) as probe:
        for units in (4, 3):
            optimizer.zero_grad()
            functional.mse_loss(net(torch.ones(BATCH, 3))[:, :units], y[:BATCH, :units]).backward()
            optimizer.step()
    assert probe.history.evidence.network["loss"][0]["target_units"] is None


def test_a_network_that_learns_the_means_alone_is_not_called_healthy():
    torch.manual_seed(0)
    layers = [part for _ in range(8) for part in (nn.Linear(24, 24), nn.Sigmoid())]
    net = nn.Sequential(*layers, nn.Linear(24, 24))
    generator = torch.Generator().manual_seed(1)
    batches = [torch.linspace(-1, 1, 24) + 0.3 * torch.randn(32, 24, generator=generator) for _ in range(50)]
    pairs = [(x, x) for x in batches]
    history = gp.scan(
        net, pairs, functional.mse_loss, 50, optimizer=lambda one: torch.optim.Adam(one.parameters(), 0.01)
    )
    assert Reading(history).end < 0.5 * float(torch.stack(batches).var())  # below what one number for all comes to
    assert gp.diagnose(history).verdict == "sick"
