"""Many trainings in one process: the first of a kind is recorded, and no network is kept alive for it."""

from pathlib import Path

import pytest
from support.script_command import inside, python, write_script

import gradprobe as gp

# a training of six steps, in a function that drops everything but the loss
TRIAL = """
import copy, gc, sys, weakref, torch
from torch import nn
torch.manual_seed(0)
alive, losses = [], []
def build(width=8, activation=nn.ReLU):
    return nn.Sequential(nn.Linear(4, width), activation(), nn.Linear(width, 3))
def train(net, optimizer, steps=6):
    for step in range(steps):
        x, y = torch.randn(5, 4), torch.randint(3, (5,))
        alive.append(weakref.ref(x))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
def trial(rate=0.1, steps=6, **kwargs):
    net = build(**kwargs)
    alive.append(weakref.ref(net))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    alive.append(weakref.ref(optimizer))
    train(net, optimizer, steps)
"""
END = """
gc.collect()
print("alive:", sum(one() is not None for one in alive))
print("losses:", losses[-8:])
"""


def many(text, *options):
    """The outcome of a script under gradprobe, which prints what the script prints without it."""
    write_script(TRIAL + text + END)
    alone = python("train.py")
    assert alone.returncode == 0, alone.stderr
    result = inside("--iterations", 10, "--out", "run", *options, "train.py")
    assert result.exit_code == 0, (result.output, result.exception)
    assert alone.stdout in result.stdout
    return result


def runs():
    return sorted(path.parent.name for path in Path().glob("run*/run.json"))


FOLDS = "for fold in range(12):\n    trial(rate=10 ** -(1 + fold % 3))\n"


def test_of_many_folds_the_first_is_recorded_and_none_is_kept_alive():
    result = many(FOLDS)
    assert "alive: 0\n" in result.stdout
    assert runs() == ["run"]
    history = gp.load("run").history
    assert history.iterations == 6
    assert history.conditions["stopped"] == "the script ended after 6 of 10 iterations"
    assert history.conditions["optimizer"].startswith("Adam lr 0.1")
    table = result.stdout[result.stdout.index("12 trainings, 1 of them recorded") :].splitlines()
    assert "--every" in " ".join(table[:2])
    assert [line.split()[:5] for line in table if line[:1].isdigit()][1:] == [
        ["1", "net", "6", *next(line.split()[3:5] for line in table if line.startswith("1 "))],
        ["2", "to", "12", "net", "6,"],
    ]


def test_every_training_on_request_with_a_line_for_each():
    result = many(FOLDS, "--every")
    assert "alive: 0\n" in result.stdout
    assert len(runs()) == 12
    rates = [gp.load(run).history.conditions["optimizer"].split()[2].strip(",") for run in sorted(runs(), key=len)]
    assert set(rates) == {"0.1", "0.01", "0.001"}
    table = result.stdout[result.stdout.index("\n12 trainings\n") :].splitlines()
    assert [line.split()[0] for line in table[3:]] == list(map(str, range(1, 13)))
    assert result.stdout.count("Nothing to do") == 1
    assert result.stderr.count("run") < 12  # a few names and a number, not twelve


def test_every_lets_the_script_train_to_its_end():
    many("for fold in range(2):\n    trial(steps=15)\n", "--every")
    assert [gp.load(run).history.iterations for run in runs()] == [10, 10]


def test_kinds_are_told_apart_by_their_activation_and_optimizer():
    many(
        "for activation in (nn.Sigmoid, nn.ReLU, nn.Sigmoid):\n    trial(activation=activation)\n"
        "net = build(activation=nn.ReLU)\ntrain(net, torch.optim.SGD(net.parameters(), lr=0.1))\n"
    )
    assert len(runs()) == 3


def test_a_grid_of_widths_has_a_record_of_the_first_few():
    result = many("for width in range(3, 15):\n    trial(width=width)\n")
    assert "alive: 0\n" in result.stdout
    assert len(runs()) == 4
    assert "12 trainings, 4 of them recorded" in result.stdout


@pytest.mark.parametrize(("members", "recorded"), [(3, 3), (6, 1)])
def test_an_ensemble_that_is_built_before_it_trains(members, recorded):
    result = many(
        f"nets = [build() for _ in range({members})]\n"
        "optimizers = [torch.optim.Adam(net.parameters()) for net in nets]\n"
        "for step in range(4):\n    for net, optimizer in zip(nets, optimizers):\n"
        "        train(net, optimizer, steps=1)\n"
    )
    assert len(runs()) == recorded
    assert (f"{members} trainings, 1 of them recorded" in result.stdout) == (recorded == 1)


def test_clones_of_a_model_in_an_inner_loop():
    many(
        "model = build()\nouter = torch.optim.Adam(model.parameters())\nfor step in range(6):\n"
        "    for task in range(3):\n        clone = copy.deepcopy(model)\n"
        "        train(clone, torch.optim.SGD(clone.parameters(), lr=0.1), steps=2)\n"
        "        alive.append(weakref.ref(clone))\n    train(model, outer, steps=1)\ndel clone\n"
    )
    assert runs() == ["run-clone", "run-model"]
    assert gp.load("run-model").history.iterations == 6
    assert gp.load("run-clone").history.iterations == 2


def test_an_optimizer_for_each_epoch_is_one_training():
    many(
        "net = build()\nfor epoch in range(4):\n"
        "    train(net, torch.optim.Adam(net.parameters(), lr=0.1 / (1 + epoch)), steps=2)\n"
    )
    assert runs() == ["run"]
    assert gp.load("run").history.iterations == 8


def test_a_network_that_is_dropped_amid_its_window_is_freed_and_its_record_kept():
    result = many("trial(steps=4)\n")
    assert "alive: 0\n" in result.stdout
    assert gp.load("run").history.iterations == 4


def test_a_network_is_freed_after_its_window():
    assert "alive: 0\n" in many("trial(steps=30)\n", "--keep-going").stdout
    assert gp.load("run").history.iterations == 10


def test_models_that_are_built_in_vain_do_not_stand_for_those_that_train():
    many("for _ in range(5):\n    spare = build(); idle = torch.optim.Adam(spare.parameters())\ntrial()\n")
    assert gp.load("run").history.iterations == 6
