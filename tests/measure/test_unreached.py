"""Why a layer has no gradient, from what was seen of it; and what a probe says of whole networks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gradprobe.measure.unreached import Seen, late_layers, unreached_reasons
from gradprobe.record.history import UNREACHED

CALLED = SimpleNamespace(calls=1, differentiable_calls=1)
WITHOUT_GRADIENT = SimpleNamespace(calls=1, differentiable_calls=0)
NOT_CALLED = SimpleNamespace(calls=0, differentiable_calls=0)
SEEN = Seen(
    CALLED,
    None,
    touched=False,
    weight_arrived=False,
    is_held=None,
    others_called=True,
    any_weight_arrived=False,
)

CASES = {
    "no path": ({}, "no_path", "no_path"),
    "detached": ({"hook": WITHOUT_GRADIENT}, "detached", "no_path"),
    "called in its own way": ({"hook": NOT_CALLED}, "never_called", "never_called"),
    "nothing called": ({"hook": NOT_CALLED, "others_called": False}, "never_called", "no_path"),
    "nothing called, weights arrive": (
        {"hook": NOT_CALLED, "others_called": False, "any_weight_arrived": True, "weight_arrived": True},
        "bypassed",
        "no_path",
    ),
    "used up": ({"touched": True}, "consumed", "consumed"),
    "held by none": ({"touched": True, "is_held": False}, "consumed", "not_held"),
    "held by none and without a gradient": ({"is_held": False}, "no_path", "no_path"),
    "checkpointed": ({"hook": WITHOUT_GRADIENT, "fact": "checkpointed"}, "checkpointed", "checkpointed"),
    "another tensor": ({"fact": "several", "weight_arrived": True}, "other_tensor", "no_path"),
    "none of its tensors": ({"fact": "several"}, "no_path", "no_path"),
    "an object": ({"hook": WITHOUT_GRADIENT, "fact": "opaque", "weight_arrived": True}, "opaque", "no_path"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_reason_follows_from_what_was_seen(case):
    seen, output, weight = CASES[case]
    reasons = unreached_reasons(nn.Linear(2, 2), ["weight"], replace(SEEN, **seen))
    assert {of: reason.code for of, reason in reasons.items()} == {"output": output, "weight": weight}
    assert {reason.code for reason in reasons.values()} <= set(UNREACHED)


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_layer_is_just_frozen(case):
    frozen = nn.Linear(2, 2).requires_grad_(False)
    reasons = unreached_reasons(frozen, ["weight"], replace(SEEN, **CASES[case][0]))
    assert reasons["weight"].code == "frozen"
    assert reasons["output"].code in ("frozen", "no_path", "consumed", "other_tensor", "opaque")


def test_a_gradient_that_is_there_and_that_no_optimizer_holds_is_not_held():
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    seen = replace(SEEN, hook=NOT_CALLED, is_held=False)  # a projection whose weight is used by itself
    assert unreached_reasons(layer, ["weight"], seen)["weight"].code == "not_held"


def test_a_layer_that_took_anothers_place_is_held_or_not():
    old, new = nn.Linear(2, 2), nn.Linear(2, 3)
    held = {id(parameter) for parameter in old.parameters()}
    known, now = {"fc": old}, {"fc": new}

    def late(*more):
        (layer,) = late_layers(known, now, ("output", "weight"), 4, *more)
        return layer.name, layer.depth, dict(layer.unreached_code)

    came = dict.fromkeys(("output", "weight"), "came_late")
    assert late() == ("fc (new)", 4, came)
    assert late(["fc"], {id(new.weight)}) == ("fc (new)", 4, came)
    assert late([], held) == ("fc", 4, {"output": "came_late", "weight": "not_held_new"})
    new.requires_grad_(False)
    assert late([], held) == ("fc", 4, came)
