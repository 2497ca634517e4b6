"""What all integrations share: settings, errors that become warnings, packages that are missing."""

import subprocess
import sys

import pytest
from support.oracle import assert_agrees
from support.trainers import expected, loader, network, sgd
from torch import nn

import gradprobe as gp
from gradprobe.integrations.recording import Settings


def recorded(tmp_path, writers, **settings):
    net = network()
    optimizer = sgd(net)
    recording = Settings(2, out=tmp_path / "run", writers=writers, **settings).attach(net, [optimizer], tuple)
    for x, y in loader():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return recording


def test_a_logger_that_fails_is_logged_and_the_others_and_the_training_go_on(tmp_path, messages):
    got = []
    recorded(tmp_path, [lambda *_: 1 / 0, lambda *scalar: got.append(scalar)])
    assert len(got) == 8
    assert [line for line in messages() if "division by zero" in line] == [
        "gradprobe could not log the run to function: division by zero"
    ]


def test_a_folder_that_cannot_be_written_is_logged_and_the_training_goes_on(tmp_path, messages, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("gradprobe.integrations.recording.save", full)
    recording = recorded(tmp_path, [])
    assert any("no space left on device" in line for line in messages())
    assert_agrees(recording.history, expected(2))


def test_a_training_without_a_step_writes_nothing_and_says_so(tmp_path, messages):
    net = network()
    with Settings(out=tmp_path / "run").attach(net, [sgd(net)], tuple):
        pass
    assert messages() == ["gradprobe recorded nothing: no optimizer step was seen"]
    assert not (tmp_path / "run").exists()


def test_the_settings_reach_the_probe(tmp_path):
    policy = gp.RelativePolicy(0.9, of="weight")
    recording = recorded(tmp_path, [], policy=policy, of="weight", layers=["3"], conditions={"data": "noise"})
    assert set(recording.history.frame["of"]) == {"weight"}
    assert set(recording.history.frame["layer"]) == {"3"}
    assert recording.history.conditions["data"] == "noise"
    assert recording.placement == gp.place(recording.history, policy)


def test_a_policy_that_looks_at_what_is_not_recorded_is_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"looks at of='output', but only \['weight'\] is recorded"):
        recorded(tmp_path, [], policy=gp.ThresholdPolicy(), of="weight")


def test_a_policy_that_fails_does_not_end_the_training(tmp_path, messages):
    recording = recorded(tmp_path, [], policy=lambda history: 1 / 0)
    assert "gradprobe could not apply the policy, so CNDS' rule decides: division by zero" in messages()
    run = gp.load(tmp_path / "run")
    assert run.history == recording.history
    assert run.placement == recording.placement == gp.place(recording.history)


def test_fsdp_1_is_refused():
    wrapped = type("FullyShardedDataParallel", (nn.Sequential,), {})(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"use FSDP2 \(fully_shard\)"):
        Settings().attach(wrapped, [sgd(wrapped)], tuple)


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["lightning", "transformers"])
def test_a_missing_package_is_answered_with_what_to_install(extra):
    gone = ["lightning", "pytorch_lightning", "transformers"]
    code = f"import sys; sys.modules.update(dict.fromkeys({gone})); import gradprobe.integrations.{extra}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'gradprobe[{extra}]'" in done.stderr
