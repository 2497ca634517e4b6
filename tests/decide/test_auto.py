"""What is done after the diagnosis, from the record alone."""

import pytest
import torch
from torch import nn

import gradprobe as gp
from gradprobe.decide.auto import _RULES, AutoPolicy, only_gradient_lost, open_remedies
from gradprobe.decide.diagnosis import REMEDIABLE, Diagnosis, diagnose
from gradprobe.decide.remedies import REMEDIES
from gradprobe.decide.step_size import learning_rate_factor
from gradprobe.record.evidence import Evidence
from gradprobe.record.history import GradientHistory, Layer, tidy


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=1e-3)


def recorded(net, optimizer=adam, loss=nn.functional.cross_entropy, steps=30):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    batches = [(x[i : i + 32], x[i : i + 32, :4].argmax(1)) for i in range(0, 256, 32)]
    return gp.scan(net, batches, loss, steps, optimizer=optimizer, seed=0)


def chain(activation, depth=10, last=(), norm=None, std=None):
    torch.manual_seed(0)
    parts = [nn.Linear(8, 32), activation()]
    for _ in range(depth):
        parts += [nn.Linear(32, 32), *([norm(32)] if norm else []), activation()]
    net = nn.Sequential(*parts, nn.Linear(32, 4), *last)
    if std is not None:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std)
    return net


def of_one_layer(kind="Linear", **facts):
    """A history of one layer with evidence: what a step moves its weights by, and facts of the layer."""
    update = facts.pop("update", 3e-3)
    rows = [(0, "fc", 0.9, 1.0, 0.0, 0.0, 0.0, 0.0, 8, update, 1.0)]
    evidence = Evidence.from_rows(rows, {"fc": facts}, {})
    return GradientHistory(tidy([]), {}, (Layer("fc", 0, kind, 9),), (), None, evidence=evidence)


def test_the_causes_that_have_a_remedy_are_those_that_are_compared():
    assert set(_RULES) == REMEDIABLE


CASES = {
    "relu": (lambda: recorded(chain(nn.ReLU, 16)), ("lsuv", "normalised")),
    # LSUV scales what is the same for every input with what is not
    "sigmoid": (lambda: recorded(chain(nn.Sigmoid)), ("normalised",)),
    "weights at nothing": (lambda: recorded(chain(nn.Tanh, std=0.01)), ("lsuv",)),
    "both": (lambda: recorded(chain(nn.Sigmoid, std=0.01)), ("within_channel",)),
    "steps too small": (
        lambda: recorded(chain(nn.ReLU, 1), lambda net: torch.optim.Adam(net.parameters(), lr=1e-7)),
        ("learning_rate",),
    ),
    "healthy": (lambda: recorded(chain(nn.ReLU, 1), lambda net: torch.optim.Adam(net.parameters(), lr=1e-2)), ()),
    "in the script": (lambda: recorded(chain(nn.ReLU, 1, [nn.Softmax(1)])), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_remedies_are_those_of_the_cause_that_the_network_can_take(case):
    history, expected = CASES[case][0](), CASES[case][1]
    placement = AutoPolicy()(history)
    assert open_remedies(history) == expected, diagnose(history)
    assert set(expected) <= set(REMEDIES)
    assert placement.remedy == (expected[0] if expected else None)
    assert (placement.rule, placement.points) == ("auto", ())
    assert diagnose(history).sentence in placement.reason
    assert gp.place(history, "auto") == placement


def test_what_is_wrong_in_the_script_is_mended_there():
    history = recorded(chain(nn.ReLU, 1, [nn.Softmax(1)]))
    assert "in the script" in AutoPolicy()(history).reason
    assert diagnose(history).step in AutoPolicy()(history).reason


@pytest.mark.parametrize(
    ("kind", "names"),
    [("LSTM", ("orthogonal", "lsuv")), ("BatchNorm2d", ("lsuv",)), ("MultiheadAttention", ("lsuv",))],
)
def test_what_has_normalisation_attention_or_recurrent_layers_gets_no_normalisation(kind, names):
    assert open_remedies(of_one_layer(kind), Diagnosis("unclear")) == names


def test_trained_weights_are_not_drawn_anew():
    sick = Diagnosis("unclear")
    initial, trained = ({"std": 0.1, "fan_in": 64, "count": 4096, "kurtosis": k} for k in (3.0, 9.0))
    assert open_remedies(of_one_layer(**initial), sick) == ("lsuv", "normalised")
    assert open_remedies(of_one_layer(**trained), sick) == ("normalised",)


def test_of_gradients_alone_nothing_is_decided():
    history = GradientHistory(tidy([]), {}, (Layer("fc", 0, "Linear", 9),), (), None)
    assert open_remedies(history) == ()
    assert not only_gradient_lost(history, diagnose(history))
    assert "cannot tell" in AutoPolicy()(history).reason


@pytest.mark.parametrize(("update", "factor"), [(3e-3, 1.0), (3e-5, 10.0), (3e-9, 10.0), (0.3, 0.01), (0.0, 1.0)])
def test_the_rate_is_that_by_which_steps_have_the_usual_size(update, factor):
    assert learning_rate_factor(of_one_layer(update=update)) == factor
