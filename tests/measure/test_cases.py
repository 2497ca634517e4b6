"""Loops that people write, written out: what a record says is what the case says that the step uses."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from support.cases.recorder import bits
from support.loops import other_passes, reported, several_losses  # noqa: F401  (they add to CASES)
from support.loops.account import CASES, ITERATIONS, Loop, Probed, Reference, as_script
from support.oracle import means_of

import gradprobe as gp
from gradprobe.script.execute import Script
from gradprobe.script.run import record_script

# what torch says of itself when a forward derivative is first taken
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
# where a number may be missing, with a reason that is true
MAY_MISS = {"gradients_by_an_adjoint_pass": {"one", "two"}}


def scripted(name):
    with tempfile.TemporaryDirectory() as folder:
        return as_script(name, Path(folder))


@functools.cache
def ran(name, kind):
    if kind is scripted:
        return scripted(name)
    torch.manual_seed(0)
    loop = kind()
    CASES[name](loop)
    return loop


def same(one, other):
    return abs(one - other) <= 1e-9 * abs(other) + 1e-15


recorded = pytest.mark.parametrize("kind", [Probed, scripted], ids=["probe", "script"])
cases = pytest.mark.parametrize("name", sorted(CASES))


@recorded
@cases
def test_the_training_is_the_same_to_the_bit(name, kind):
    plain, other = ran(name, Loop), ran(name, kind)
    assert [bits(loss) for loss in plain.losses] == [bits(loss) for loss in other.losses]
    for one, two in zip(plain.models, other.models, strict=True):
        values, others = one.state_dict(), two.state_dict()
        assert all(bits(values[key]) == bits(others[key]) for key in values)


@recorded
@cases
def test_the_numbers_are_those_of_the_case(name, kind):
    loop, reference = ran(name, kind), ran(name, Reference)
    for history, expected in zip(loop.histories, reference.found, strict=True):
        found = means_of(history.rows_of_layers)
        assert not found.keys() - expected.keys()
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


# of the reports, in float32
@recorded
@pytest.mark.parametrize(
    ("name", "model", "layer", "value"),
    [
        ("gradient_surgery", 0, "trunk1", 0.1836),
        ("gradient_surgery", 0, "trunk2", 0.4410),
        ("gradient_surgery", 0, "reg", 8.902),
        ("a_critic_that_is_frozen_in_the_generators_turn", 1, "2", 0.0689),
    ],
)
def test_the_numbers_of_the_reports(name, model, layer, value, kind):
    found = means_of(ran(name, kind).histories[model].frame)
    assert found[0, layer, "output"] == pytest.approx(value, rel=1e-3)


def test_a_solver_in_a_hook_is_one_pass():
    (history,) = ran("a_solver_in_a_tensor_hook", Probed).histories
    assert history.conditions["micro_batches"] == 1


def test_a_checkpoint_changes_no_number():
    plain = means_of(ran("two_passes_through_a_checkpoint", Probed).histories[0].frame)
    reentrant = means_of(ran("two_passes_through_a_reentrant_checkpoint", Probed).histories[0].frame)
    assert plain.keys() == reentrant.keys()
    assert all(same(plain[key], reentrant[key]) for key in plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what the trainers warn about is not ours to mend
def test_one_loop_has_one_set_of_numbers_wherever_it_is_recorded(tmp_path, monkeypatch):
    from support import trainers
    from support.loops import one_loop

    monkeypatch.chdir(tmp_path)
    iterations, model = trainers.ITERATIONS, trainers.bert()
    optimizer = trainers.sgd(model)
    with gp.GradientProbe(model, optimizer=optimizer, iterations=iterations) as probe:
        one_loop.train(model, optimizer)
    Path("train.py").write_text(one_loop.SCRIPT)
    (script,) = record_script(Script("train.py"), iterations).models
    transformers = trainers.TransformersCallback(iterations, out=tmp_path / "transformers")
    trainers.hf_train(trainers.bert(), tmp_path, transformers)
    lightning = trainers.LightningCallback(iterations, out=tmp_path / "lightning")
    one_loop.fit(lightning)
    expected = means_of(probe.history.frame)
    assert {iteration for iteration, _, _ in expected} == set(range(iterations))
    for history in (script.history, transformers.recording.history, lightning.recording.history):
        found = {(i, name.removeprefix("net."), of): v for (i, name, of), v in means_of(history.frame).items()}
        assert found == pytest.approx(expected, rel=1e-5)
