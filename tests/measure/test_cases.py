"""Loops that people write, written out: what a record says is what the case says that the step uses."""

import functools

import pytest
import torch
from support.cases.recorder import bits
from support.loops import other_passes, reported, several_losses  # noqa: F401  (they add to CASES)
from support.loops.account import CASES, ITERATIONS, Loop, Probed, Reference
from support.oracle import means_of

# what torch says of itself when a forward derivative is first taken
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
# where a number may be missing, with a reason that is true
MAY_MISS = {
    "gradients_by_an_adjoint_pass": {"one", "two"},
}


@functools.cache
def ran(name, kind):
    torch.manual_seed(0)
    loop = kind()
    CASES[name](loop)
    return loop


def same(one, other):
    return abs(one - other) <= 1e-9 * abs(other) + 1e-15


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_training_is_the_same_to_the_bit(name):
    plain, probed = ran(name, Loop), ran(name, Probed)
    assert [bits(loss) for loss in plain.losses] == [bits(loss) for loss in probed.losses]
    for one, other in zip(plain.models, probed.models, strict=True):
        values, others = one.state_dict(), other.state_dict()
        assert all(bits(values[key]) == bits(others[key]) for key in values)


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_numbers_are_those_of_the_case(name):
    probed, reference = ran(name, Probed), ran(name, Reference)
    for history, expected in zip(probed.histories, reference.found, strict=True):
        found = means_of(history.frame)
        extra = found.keys() - expected.keys()
        assert not extra, {key: found[key] for key in extra}
        for key, value in expected.items():
            iteration, layer, of = key
            if iteration >= ITERATIONS:
                continue  # behind the window
            if key not in found and layer in MAY_MISS.get(name, ()):
                why = history.unreached[layer][of]
                assert why
                assert "no path" not in why
            else:
                assert key in found, (key, history.unreached.get(layer))
                assert same(found[key], value), (key, found[key], value)


def first(name, layer, of="output", model=0):
    return means_of(ran(name, Probed).histories[model].frame)[0, layer, of]


# the numbers of the reports, in float32
@pytest.mark.parametrize(
    ("name", "model", "layer", "value"),
    [
        ("gradient_surgery", 0, "trunk1", 0.1836),
        ("gradient_surgery", 0, "trunk2", 0.4410),
        ("gradient_surgery", 0, "reg", 8.902),
        ("a_critic_that_is_frozen_in_the_generators_turn", 1, "2", 0.0689),
    ],
)
def test_the_numbers_of_the_reports(name, model, layer, value):
    assert first(name, layer, model=model) == pytest.approx(value, rel=1e-3)


def test_a_solver_in_a_hook_is_one_pass():
    (history,) = ran("a_solver_in_a_tensor_hook", Probed).histories
    assert history.conditions["micro_batches"] == 1


def test_a_checkpoint_changes_no_number():
    plain = means_of(ran("two_passes_through_a_checkpoint", Probed).histories[0].frame)
    reentrant = means_of(ran("two_passes_through_a_reentrant_checkpoint", Probed).histories[0].frame)
    assert plain.keys() == reentrant.keys()
    assert all(same(plain[key], reentrant[key]) for key in plain)
