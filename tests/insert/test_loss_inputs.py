"""What a loss function gets for a branch: targets of its size, and containers like the trunk's."""

import dataclasses
import math
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import transformers
from support.losses import LOSS, MADE, SCORES, constant
from transformers.modeling_outputs import SequenceClassifierOutput

from gradprobe import SupervisedOutput
from gradprobe.insert.loss_inputs import resized_target, stand_in
from gradprobe.network.tensors import main_path, main_tensor


def seen_targets(prediction, target, **more):
    seen = []

    def loss_fn(output, target):
        seen.append(target)
        return output.mean()

    constant(loss_fn, **more)(prediction, target)
    return seen


def test_a_target_is_resized_to_the_prediction():
    main, small = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
    labels = torch.arange(16).reshape(1, 4, 4)
    of_main, of_branch, of_equal = seen_targets(SupervisedOutput(main, (small, main)), labels)
    assert of_main is labels
    assert of_equal is labels
    assert of_branch.tolist() == [[[5, 7], [13, 15]]]
    floats = labels.double()[:, None]
    # the mean of each quarter
    assert seen_targets(SupervisedOutput(main, (small,)), floats)[1].tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_nearest_is_that_of_the_pixel_centres(dim):
    sizes, made = (7, 5, 6)[:dim], (3, 8, 4)[:dim]
    labels = torch.arange(2 * math.prod(sizes)).reshape(2, *sizes)
    expected = F.interpolate(labels[:, None].float(), size=made, mode="nearest-exact")[:, 0].long()
    assert torch.equal(resized_target(labels, torch.zeros(2, 3, *made)), expected)
    assert torch.equal(resized_target(labels[:, None], torch.zeros(2, 3, *made)), expected[:, None])


def test_labels_of_any_size_and_bools_stay_exact():
    labels = torch.tensor([[2**60 + 1, 0]])
    assert resized_target(labels, torch.zeros(1, 3, 4)).tolist() == [[2**60 + 1, 2**60 + 1, 0, 0]]
    assert resized_target(labels > 0, torch.zeros(1, 3, 4)).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ignored", [None, 255, -100, -1])
@pytest.mark.parametrize("channels", [(), (1,)])
def test_labels_in_floats_are_labels(dtype, ignored, channels):
    torch.manual_seed(0)
    labels = 2.0 * torch.randint(2, (2, *channels, 7, 9))  # none of class 1
    if ignored is not None:
        labels[..., 2:5, :] = ignored
    expected = F.interpolate(labels.reshape(2, 1, 7, 9), size=(3, 4), mode="nearest-exact")
    made = resized_target(labels.to(dtype), torch.zeros(2, 3, 3, 4), torch.zeros(2, 3, 7, 9))
    assert made.dtype == dtype
    assert torch.equal(made.float(), expected.reshape(2, *channels, 3, 4))


def test_one_hot_and_multi_label_maps_stay_so():
    torch.manual_seed(0)
    one_hot = F.one_hot(torch.randint(3, (2, 8, 8)), 3).movedim(3, 1).float()
    made = resized_target(one_hot, torch.zeros(2, 3, 3, 3))
    assert torch.equal(made, F.interpolate(one_hot, size=(3, 3), mode="nearest-exact"))
    assert torch.equal(made.sum(1), torch.ones(2, 3, 3))
    several = torch.randint(2, (2, 3, 8, 8)).float()
    assert set(resized_target(several, torch.zeros(2, 3, 3, 3)).unique().tolist()) == {0, 1}
    # smoothed labels are no labels any more: they still sum to 1
    smoothed = 0.9 * one_hot + 0.1 / 3
    torch.testing.assert_close(
        resized_target(smoothed, torch.zeros(2, 3, 3, 3)), F.interpolate(smoothed, size=(3, 3), mode="bilinear")
    )


def test_whole_numbers_that_are_no_classes_are_values():
    counts = torch.tensor([[[0.0, 4.0, 8.0, 2.0]]])
    assert resized_target(counts, torch.zeros(1, 1, 2)).tolist() == [[[2.0, 5.0]]]


class Target(NamedTuple):
    labels: Any
    weights: Any
    names: Any


def test_each_tensor_of_a_target_is_resized_as_what_it_is():
    labels, weights = torch.arange(16).reshape(1, 4, 4), torch.rand(1, 4, 4)
    main, small = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
    made = resized_target(Target(labels, {"w": weights, "n": torch.ones(1, 3)}, "a"), small, main)
    assert type(made) is Target
    assert made.labels.tolist() == [[[5, 7], [13, 15]]]
    torch.testing.assert_close(made.weights["w"], F.avg_pool2d(weights, 2))
    assert made.weights["n"].tolist() == [[1, 1, 1]]
    assert made.names == "a"


def test_a_target_is_resized_in_a_compiled_step():
    torch._dynamo.reset()
    labels = 2.0 * torch.randint(2, (2, 1, 8, 8))
    small = torch.zeros(2, 3, 4, 4)
    compiled = torch.compile(resized_target, backend="eager", fullgraph=True)
    assert torch.equal(compiled(labels, small), resized_target(labels, small))


def test_floats_without_channels_are_resized_linearly():
    depth = torch.arange(4.0).reshape(1, 4)
    assert resized_target(depth, torch.zeros(1, 1, 2)).tolist() == [[0.5, 2.5]]


@pytest.mark.parametrize(
    ("target", "prediction", "main"),
    [
        (torch.zeros(2).long(), torch.zeros(2, 5), torch.zeros(2, 5)),
        (torch.zeros(2, 7).long(), torch.zeros(2, 7, 5), torch.zeros(2, 7, 5)),
        (torch.zeros(2, 8, 8).long(), torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 4, 4)),
        ({"boxes": torch.zeros(2, 4)}, torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 4, 4)),
        (torch.zeros(2, 8, 8), [torch.zeros(2, 3, 2, 2)], None),
        (torch.zeros(2, 3, 3, 3, 3), torch.zeros(2, 1, 2, 2, 2, 2), None),
        ((torch.zeros(2, 4), [torch.zeros(2, 4, 4)]), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)),
    ],
)
def test_other_targets_are_left_as_they_are(target, prediction, main):
    assert resized_target(target, prediction, main) is target


def test_the_user_maps_the_targets():
    calls = []

    def map_target(target, prediction, index):
        calls.append((target, prediction.shape, index))
        return index

    made = SupervisedOutput(torch.zeros(1, 2, 4, 4), (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 3, 3)))
    assert seen_targets(made, "target", map_target=map_target) == ["target", 0, 1]
    assert calls == [("target", (1, 2, 2, 2), 0), ("target", (1, 2, 3, 3), 1)]


# containers


class Named(NamedTuple):
    loss: Any
    scores: Any


@dataclasses.dataclass
class Held:
    loss: Any
    scores: Any
    note: str = "kept"


@dataclasses.dataclass(frozen=True)
class Frozen:
    hidden: Any
    scores: Any


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (SCORES, MADE),
        ({"loss": LOSS, "scores": SCORES, "k": 1}, {"scores": MADE, "k": 1}),
        ({"loss": LOSS, "out": {"scores": SCORES}}, {"out": {"scores": MADE}}),
        ((LOSS, SCORES, "rest"), (None, MADE, "rest")),
        ([None, (SCORES, 4)], [None, (MADE, 4)]),
        (Named(LOSS, SCORES), Named(None, MADE)),
        (Held(LOSS, SCORES), Held(None, MADE)),
        (Frozen(None, SCORES), Frozen(None, MADE)),
        (
            SequenceClassifierOutput(loss=LOSS, logits=SCORES, attentions=(SCORES,)),
            SequenceClassifierOutput(logits=MADE, attentions=(SCORES,)),
        ),
        (transformers.BatchEncoding({"scores": SCORES}), transformers.BatchEncoding({"scores": MADE})),
        ("no tensor", MADE),
        ({"a": SCORES, "b": [LOSS, SCORES[0]]}, {"a": MADE, "b": [LOSS, SCORES[0]]}),
    ],
)
def test_a_prediction_stands_in_for_the_main_tensor(output, expected):
    before = str(output)
    like = stand_in(output, MADE)
    assert type(like) is type(expected)
    assert str(like) == str(expected)
    assert str(output) == before
    assert main_tensor(like) is MADE


def test_a_prediction_that_is_a_container_stands_for_itself():
    made = [MADE]
    assert stand_in([SCORES], made) is made


def test_a_loss_function_of_a_container_serves_the_branches():
    def loss_fn(output, target):
        return F.mse_loss(output["scores"], target)

    made = SupervisedOutput({"scores": torch.ones(2)}, (torch.full((2,), 3.0),))
    assert constant(loss_fn, weight=0.5)(made, torch.zeros(2)) == 1 + 0.5 * 9


def test_a_loss_function_that_changes_the_models_own_loss_is_refused_with_advice():
    output = {"loss": torch.tensor(1.0), "scores": torch.ones(2)}
    criterion = constant(lambda output, target: output["loss"] / 4)
    with pytest.raises(TypeError, match="return the model's loss as it is"):
        criterion(SupervisedOutput(output, (torch.ones(2),)), torch.zeros(2))


def test_an_error_of_a_loss_function_of_its_own_is_not_reworded():
    with pytest.raises(KeyError, match="nothing"):
        constant(lambda output, target: output.get("nothing", torch.ones(())) + target["nothing"])(
            SupervisedOutput({"scores": SCORES}, (SCORES,)), {}
        )


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (SCORES, ()),
        (Held(LOSS, SCORES), ("scores",)),
        ({"losses": {"a": LOSS}, "boxes": SCORES}, ("boxes",)),
        ({"loss": LOSS}, None),
        ([None, [SCORES]], (1, 0)),
    ],
)
def test_where_the_main_tensor_is(output, path):
    assert main_path(output) == path
    assert main_tensor(output) is (None if path is None else SCORES)
