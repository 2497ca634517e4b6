import copy
import dataclasses
import math
import pickle
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from gradprobe import DeepSupervisionLoss, SupervisedOutput
from gradprobe.insert.companion import CompanionObjective, squared_hinge, squared_norm
from gradprobe.insert.loss import branch_weights
from gradprobe.insert.loss_inputs import resized_target, stand_in
from gradprobe.insert.model_loss import OWN_LOSSES, branch_loss, labels_of, matching_losses, own_loss
from gradprobe.insert.schedules import SCHEDULES
from gradprobe.network.tensors import main_path, main_tensor
from gradprobe.record.points import Point

POINTS = [Point("a", (1, 2), 0, ("a",)), Point("b", (1, 2), 2, ("b",)), Point("c", (1, 2), 3, ("c",))]


def constant(loss_fn=F.mse_loss, **more):
    return DeepSupervisionLoss(loss_fn, schedule="constant", **more)


# schedules


def test_the_cnds_schedule_is_recursive():
    weight, total = 0.3, 60
    for t in range(1, 61):
        weight *= 1 - t / total
        assert SCHEDULES["cnds"](0.3, t, total) == pytest.approx(weight)
    assert SCHEDULES["cnds"](0.3, 20, 60) == pytest.approx(0.0056, abs=5e-5)
    assert SCHEDULES["linear"](0.3, 20, 60) == pytest.approx(0.2)


def test_the_dsn_schedule_falls_from_a_tenth():
    assert [SCHEDULES["dsn"](0.5, t, 4) for t in range(6)] == pytest.approx([0.05, 0.0375, 0.025, 0.0125, 0, 0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_schedule_falls_below_zero_past_its_end(schedule):
    assert all(SCHEDULES[schedule](0.3, t, 5) >= 0 for t in range(12))


def test_the_epoch_is_in_the_state_dict():
    criterion = DeepSupervisionLoss(F.mse_loss, total=10)
    for _ in range(4):
        criterion.step()
    resumed = DeepSupervisionLoss(F.mse_loss, total=10)
    resumed.load_state_dict(criterion.state_dict())
    assert resumed.epoch == 4
    assert resumed.weight == criterion.weight == pytest.approx(0.3 * math.prod(1 - t / 10 for t in range(1, 5)))
    prediction = SupervisedOutput(torch.ones(1), (torch.ones(1),))
    assert resumed(prediction, torch.zeros(1)).item() == pytest.approx(1 + resumed.weight)


def test_the_weight_is_zero_from_drop_after_on():
    criterion = constant(weight=0.5, drop_after=2)
    prediction = SupervisedOutput(torch.ones(1), (torch.full((1,), 2.0),))
    losses = []
    for _ in range(4):
        losses.append(criterion(prediction, torch.zeros(1)).item())
        criterion.step()
    assert losses == [3, 3, 1, 1]
    assert criterion.weight == 0


# the joint loss


def test_the_joint_loss_and_its_gradient():
    main, first, second = (torch.tensor([value], requires_grad=True) for value in (1.0, 2.0, 3.0))
    criterion = constant(weight=0.5)
    loss = criterion(SupervisedOutput(main, (first, second)), torch.zeros(1))
    assert loss.item() == 1 + 0.5 * (4 + 9)
    loss.backward()
    assert [value.grad.item() for value in (main, first, second)] == [2.0, 2.0, 3.0]


def test_the_joint_loss_keeps_its_dtype():
    for dtype in (torch.float16, torch.float32, torch.float64):
        made = torch.ones(1, dtype=dtype)
        assert constant()(SupervisedOutput(made, (made,)), 0 * made).dtype == dtype


def test_a_plain_output_has_the_plain_loss():
    criterion = DeepSupervisionLoss(nn.CrossEntropyLoss(), total=3)
    scores, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert criterion(scores, target) == F.cross_entropy(scores, target)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda criterion: pickle.loads(pickle.dumps(criterion))])
def test_a_criterion_can_be_copied(copied):
    criterion = DeepSupervisionLoss(F.mse_loss, total=4, weights=[1, 2])
    criterion.step()
    made = SupervisedOutput(torch.ones(1), (torch.ones(1), torch.ones(1)))
    assert copied(criterion)(made, torch.zeros(1)) == criterion(made, torch.zeros(1))


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("off", [{"weight": 0.0}, {"drop_after": 0}, {"weights": [0.0]}])
def test_an_unweighted_branch_that_diverged_harms_nothing(bad, off):
    trunk, branch = nn.Linear(2, 2), nn.Linear(2, 2)
    nn.init.constant_(branch.weight, bad)
    hidden = trunk(torch.ones(3, 2))
    loss = constant(**off)(SupervisedOutput(hidden, (branch(hidden),)), torch.zeros(3, 2))
    loss.backward()
    grad = trunk.weight.grad.clone()
    trunk.zero_grad()
    plain = F.mse_loss(trunk(torch.ones(3, 2)), torch.zeros(3, 2))
    plain.backward()
    assert loss.item() == plain.item()
    assert torch.equal(grad, trunk.weight.grad)
    assert branch.weight.grad is None


class Supervised(nn.Module):
    """Like a supervised network, with one branch."""

    def __init__(self, wrap=lambda scores, target: scores):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.wrap = nn.Linear(4, 8), nn.Linear(8, 3), wrap
        self.branches = nn.ModuleDict({"at_first": nn.Linear(8, 3)})

    def forward(self, x, target=None):
        hidden = torch.relu(self.first(x))
        return SupervisedOutput(self.wrap(self.last(hidden), target), (self.branches["at_first"](hidden),))


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_data_parallel_still_sees_a_dropped_branch(process_group):
    net = Supervised()
    parallel = nn.parallel.DistributedDataParallel(net)
    criterion = constant(F.cross_entropy, drop_after=1)
    weight = net.branches["at_first"].weight
    for iteration in range(4):  # the second step after a branch went missing would raise
        parallel.zero_grad()
        criterion(parallel(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
        assert (weight.grad.abs().sum().item() > 0) == (iteration == 0)
        assert net.first.weight.grad.abs().sum() > 0
        criterion.step()


def test_a_weight_that_is_changed_in_mid_training_counts():
    criterion = constant(weight=0.5)
    criterion.initial = 2.0
    assert criterion(SupervisedOutput(torch.ones(1), (torch.ones(1),)), torch.zeros(1)) == 3


# weights of the branches


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("equal", [1, 1, 1]),
        ("halving", [1 / 7, 2 / 7, 4 / 7]),
        ("depth", [1 / 8, 3 / 8, 4 / 8]),
        ([0.5, 0, 2], [0.5, 0, 2]),
    ],
)
def test_the_weights_of_the_branches(weights, expected):
    assert branch_weights(weights, 3, POINTS) == pytest.approx(expected)
    criterion = constant(weight=0.5, weights=weights, points=POINTS)
    ones = torch.ones(1, dtype=torch.float64)
    made = SupervisedOutput(ones, (ones, 2 * ones, 3 * ones))
    joint = 1 + 0.5 * sum(w * loss for w, loss in zip(expected, (1, 4, 9), strict=True))
    assert criterion(made, 0 * ones).item() == pytest.approx(joint, rel=1e-14)


@pytest.mark.parametrize(("weights", "points"), [([1, 2], None), ("depth", POINTS)])
def test_weights_that_are_not_one_for_each_branch_are_refused(weights, points):
    criterion = constant(weights=weights, points=points)
    with pytest.raises(ValueError, match=r"each of the 1 branches, got [23]"):
        criterion(SupervisedOutput(torch.ones(1), (torch.ones(1),)), torch.zeros(1))
    assert criterion(SupervisedOutput(torch.ones(1), ()), torch.zeros(1)) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": "cosine", "total": 3}, ValueError, "schedule= out of"),
        ({"schedule": "cnds"}, ValueError, "needs total="),
        ({"weight": -1, "total": 3}, ValueError, "at least 0"),
        ({"loss_fn": "mse", "total": 3}, TypeError, "loss_fn to be callable, got str"),
        ({"map_target": 3, "total": 3}, TypeError, "map_target to be callable, got int"),
        ({"drop_after": -1, "total": 3}, ValueError, "drop_after="),
        ({"weights": "half", "total": 3}, ValueError, "weights= out of"),
        ({"weights": [1, -1], "total": 3}, ValueError, "at least 0"),
        ({"weights": "depth", "total": 3}, ValueError, "needs points="),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DeepSupervisionLoss(**{"loss_fn": F.mse_loss, **arguments})


# targets


def seen_targets(prediction, target, **more):
    seen = []

    def loss_fn(output, goal):
        seen.append(goal)
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


LOSS, SCORES, MADE = torch.tensor(0.5), torch.ones(2, 3), torch.zeros(2, 3)


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


def test_a_loss_function_that_changes_the_models_own_loss_is_told_what_to_do():
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
    ("output", "place"),
    [
        (SCORES, ()),
        (Held(LOSS, SCORES), ("scores",)),
        ({"losses": {"a": LOSS}, "boxes": SCORES}, ("boxes",)),
        ({"loss": LOSS}, None),
        ([None, [SCORES]], (1, 0)),
    ],
)
def test_where_the_main_tensor_is(output, place):
    assert main_path(output) == place
    assert main_tensor(output) is (None if place is None else SCORES)


# models that compute their own loss

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
TEXT = {**SMALL, "vocab_size": 40}


def bert(kind, **more):
    return getattr(transformers, f"BertFor{kind}")(transformers.BertConfig(**TEXT, **more))


def gpt2():
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, n_positions=16, **ends)
    return transformers.GPT2LMHeadModel(config)


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))


def vit():
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=8, num_labels=5)
    return transformers.ViTForImageClassification(config)


def segformer():
    config = transformers.SegformerConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=5
    )
    return transformers.SegformerForSemanticSegmentation(config)


def some_ignored(labels, ignored=-100):
    return labels.where(torch.arange(labels.shape[-1]) % 3 > 0, ignored)


def ids():
    return torch.randint(40, (3, 7))


def words():
    return {"input_ids": ids()}


def pixels(size=16):
    return {"pixel_values": torch.randn(3, 3, size, size)}


OWN = {
    "classes": (lambda: bert("SequenceClassification", num_labels=4), words, lambda: torch.tensor([3, 0, 2])),
    "one value": (lambda: bert("SequenceClassification", num_labels=1), words, lambda: torch.randn(3)),
    "values": (
        lambda: bert("SequenceClassification", num_labels=2, problem_type="regression"),
        words,
        lambda: torch.randn(3, 2),
    ),
    "multi-label": (
        lambda: bert("SequenceClassification", num_labels=2, problem_type="multi_label_classification"),
        words,
        lambda: torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),
    ),
    "masked": (lambda: bert("MaskedLM"), words, lambda: some_ignored(ids())),
    "tokens": (
        lambda: bert("TokenClassification", num_labels=5),
        words,
        lambda: some_ignored(torch.randint(5, (3, 7))),
    ),
    "causal": (gpt2, words, ids),
    "causal, padded": (gpt2, words, lambda: some_ignored(ids())),
    "encoder-decoder": (t5, words, lambda: some_ignored(ids())),
    "images": (vit, pixels, lambda: torch.tensor([4, 0, 1])),
    "segmentation": (segformer, lambda: pixels(32), lambda: some_ignored(torch.randint(5, (3, 32, 32)), 255)),
}
FOUND = {
    "classes": "cross entropy",
    "one value": "mean squared error",
    "values": "mean squared error",
    "multi-label": "binary cross entropy",
    "masked": "cross entropy, classes last",
    "tokens": "cross entropy, classes last",
    "causal": "next-token cross entropy",
    "causal, padded": "next-token cross entropy",
    "encoder-decoder": "cross entropy, classes last",
    "images": "cross entropy",
    "segmentation": "cross entropy, upsampled",
}


@pytest.mark.parametrize("kind", OWN)
def test_the_function_behind_the_models_own_loss_is_found(kind):
    torch.manual_seed(0)
    build, make_inputs, make_labels = OWN[kind]
    model, labels = build(), make_labels()
    output = model(**make_inputs(), labels=labels)
    assert matching_losses(tuple(OWN_LOSSES), output, labels, output.loss) == (FOUND[kind],)
    assert branch_loss(FOUND[kind], output.logits, labels).item() == pytest.approx(output.loss.item(), rel=1e-5)
    # a branch that predicts what the trunk does has the trunk's loss, and the trunk's gradient at its prediction
    made = output.logits.detach().requires_grad_()
    loss = DeepSupervisionLoss(weight=0.5, schedule="constant")(SupervisedOutput(output, (made,)), labels)
    assert loss.item() == pytest.approx(1.5 * output.loss.item(), rel=1e-5)
    (expected,) = torch.autograd.grad(output.loss, output.logits, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(made.grad, 0.5 * expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_function_is_found_in_half_precision(dtype):
    torch.manual_seed(0)
    scores, labels = torch.randn(64, 10).to(dtype), torch.randint(10, (64,))
    loss = F.cross_entropy(scores, labels)
    assert loss.dtype == dtype
    assert matching_losses(tuple(OWN_LOSSES), {"scores": scores}, labels, loss)[0] == "cross entropy"


def test_the_function_is_found_under_autocast():
    torch.manual_seed(0)
    model = bert("SequenceClassification", num_labels=4)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**words(), labels=torch.tensor([3, 0, 2]))
        narrow = matching_losses(tuple(OWN_LOSSES), output, torch.tensor([3, 0, 2]), output.loss)
    assert narrow == ("cross entropy",)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mean absolute error", F.l1_loss),
        ("smooth L1", F.smooth_l1_loss),
        ("mean squared error", F.mse_loss),
    ],
)
def test_other_functions_are_found(name, function):
    torch.manual_seed(0)
    scores, labels = torch.randn(8, 1), 3 * torch.randn(8)
    output = {"loss": function(scores[:, 0], labels), "scores": scores}
    assert matching_losses(tuple(OWN_LOSSES), output, labels, output["loss"]) == (name,)


def test_labels_may_have_a_dimension_of_one():
    scores, labels = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0], [1]])
    loss = F.cross_entropy(scores, labels[:, 0])
    assert matching_losses(tuple(OWN_LOSSES), scores, labels, loss) == ("cross entropy",)


def test_the_closest_is_taken_where_a_large_batch_makes_all_alike():
    torch.manual_seed(0)
    # near uniform scores, as those of a language model at the start: all cross entropies are within 1e-3
    scores, labels = 0.02 * torch.randn(8, 200, 50), torch.randint(50, (8, 200))
    loss = F.cross_entropy(scores[:, :-1].reshape(-1, 50), labels[:, 1:].flatten())
    assert branch_loss("cross entropy, classes last", scores, labels).item() == pytest.approx(
        loss.item(), rel=1e-3
    )
    assert matching_losses(tuple(OWN_LOSSES), scores, labels, loss) == ("next-token cross entropy",)


def own_output(scores, labels):
    loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return {"loss": loss, "scores": scores}


def test_what_one_batch_leaves_open_is_decided_in_the_next():
    torch.manual_seed(0)
    criterion = constant(None)
    uniform, labels = torch.zeros(2, 5, 3), torch.randint(3, (2, 5))
    criterion(SupervisedOutput(own_output(uniform, labels), (uniform,)), labels)
    assert set(criterion._own_losses) == {"cross entropy, classes last", "next-token cross entropy"}
    scores = torch.randn(2, 5, 3)
    criterion(SupervisedOutput(own_output(scores, labels), (scores,)), labels)
    assert criterion._own_losses == ("next-token cross entropy",)


def test_a_loss_that_is_not_finite_is_no_error():
    scores = torch.full((2, 3), math.nan)
    output = {"loss": torch.tensor(math.nan), "scores": scores}
    assert matching_losses(tuple(OWN_LOSSES), output, torch.tensor([0, 1]), output["loss"]) == ("cross entropy",)


def test_what_is_found_once_is_not_looked_for_again(monkeypatch):
    criterion = constant(None)
    scores, labels = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    output = {"loss": F.cross_entropy(scores, labels), "scores": scores}
    first = criterion(SupervisedOutput(output, (scores,)), labels)
    monkeypatch.setattr("gradprobe.insert.loss.matching_losses", None)
    assert criterion(SupervisedOutput(output, (scores,)), labels) == first


@pytest.mark.parametrize("smoothed", [{"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 5.0, 1.0])}])
def test_a_loss_that_no_function_gives_is_refused(smoothed):
    torch.manual_seed(0)
    scores, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    output = {"loss": F.cross_entropy(scores, labels, **smoothed), "scores": scores}
    with pytest.raises(ValueError, match="pass loss_fn="):
        constant(None)(SupervisedOutput(output, (scores,)), labels)
    # the trunk alone, and a plain loss_fn, work
    assert constant(None)(output, labels) is output["loss"]
    constant(lambda output, labels: F.cross_entropy(output["scores"], labels))(
        SupervisedOutput(output, (scores,)), labels
    )


@pytest.mark.parametrize("loss_fn", [None, lambda output, target: output.loss, lambda output, target: output[0]])
@pytest.mark.parametrize("target", ["labels", "batch"])
def test_the_models_own_loss_however_it_is_asked_for(loss_fn, target):
    torch.manual_seed(0)
    batch = {"input_ids": ids(), "labels": torch.tensor([3, 0, 2])}
    output = bert("SequenceClassification", num_labels=4)(**batch)
    made = torch.randn(3, 4)
    expected = output.loss + 0.3 * F.cross_entropy(made, batch["labels"])
    loss = constant(loss_fn)(SupervisedOutput(output, (made,)), batch if target == "batch" else batch["labels"])
    torch.testing.assert_close(loss, expected)


def test_a_tuple_with_its_own_loss():
    torch.manual_seed(0)
    labels = torch.tensor([3, 0, 2])
    output = bert("SequenceClassification", num_labels=4)(**words(), labels=labels, return_dict=False)
    loss = constant(lambda output, target: output[0])(SupervisedOutput(output, (output[1],)), labels)
    torch.testing.assert_close(loss, 1.3 * output[0])


def test_labels_for_the_own_loss_are_mapped_and_resized():
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    small, quarter = torch.randn(2, 3, 2, 2), labels[:, 1::2, 1::2]
    output = {"loss": F.cross_entropy(scores, labels), "scores": scores}
    expected = output["loss"] + 0.3 * F.cross_entropy(small, quarter)
    made = SupervisedOutput(output, (small,))
    assert constant(None)(made, {"labels": labels}) == expected

    def map_target(target, prediction, index):
        return {"labels": target["labels"][:, 1::2, 1::2]}

    assert constant(None, map_target=map_target)(made, {"labels": labels}) == expected


def test_without_a_loss_the_own_loss_is_refused():
    for output in ({"scores": SCORES}, SCORES, SequenceClassifierOutput(logits=SCORES)):
        with pytest.raises(TypeError, match="give the model its labels, or pass loss_fn="):
            own_loss(output, None)
    with pytest.raises(TypeError, match=r"a loss of shape \(2,\)"):
        own_loss({"loss": torch.ones(2)}, None)


@pytest.mark.parametrize("target", [None, {"input_ids": SCORES}, {"labels": [1, 2]}])
def test_a_target_without_labels_is_refused(target):
    with pytest.raises(TypeError, match="pass the labels"):
        labels_of(target)


def test_a_prediction_that_does_not_suit_the_own_loss_is_refused():
    with pytest.raises(ValueError, match=r"prediction \(4, 3\) and labels \(2,\)"):
        branch_loss("cross entropy", torch.ones(4, 3), torch.ones(2).long())
    with pytest.raises(ValueError, match="prediction str"):
        branch_loss("cross entropy", "nothing", torch.ones(2).long())


def test_an_own_loss_without_a_tensor_is_refused():
    with pytest.raises(TypeError, match="no tensor"):
        matching_losses(tuple(OWN_LOSSES), {"loss": LOSS}, torch.ones(2), LOSS)


# deeply-supervised nets


def test_the_squared_hinge_by_hand():
    scores = torch.tensor([[2.0, 1.5, -3.0], [0.0, 1.0, 0.25]], dtype=torch.float64)
    # row 0, class 0: (1 - .5)^2 + 0; row 1, class 2: (1 - .25)^2 + (1 + .75)^2
    assert squared_hinge(scores, torch.tensor([0, 2])).item() == (0.25 + 0.5625 + 3.0625) / 2


def test_the_squared_hinge_is_torchs_times_the_classes():
    torch.manual_seed(0)
    scores, target = torch.randn(9, 5, dtype=torch.float64), torch.randint(5, (9,))
    expected = 5 * F.multi_margin_loss(scores, target, p=2)
    torch.testing.assert_close(squared_hinge(scores, target), expected)
    # a dense prediction is a batch of all its places
    dense, places = scores.reshape(3, 3, 5).movedim(2, 1), target.reshape(3, 3)
    torch.testing.assert_close(squared_hinge(dense, places), expected)


def test_the_squared_norm_leaves_biases_out_and_counts_a_shared_weight_once():
    layer = nn.Linear(2, 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    tied = nn.Linear(2, 1)
    tied.weight = layer.weight
    assert squared_norm(nn.Sequential(layer, nn.ReLU(), tied)).item() == 25
    assert squared_norm(nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))).requires_grad
    assert squared_norm(nn.ReLU()).item() == 0


@pytest.fixture
def two_branches():
    net = nn.Module()
    net.branches = nn.ModuleDict({"a": nn.Linear(1, 2).double(), "b": nn.Linear(1, 2).double()})
    with torch.no_grad():
        net.branches["a"].weight.fill_(0.5)
        net.branches["b"].weight.fill_(1.0)
    return net


SCORED = torch.tensor([[2.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
HINGE = 2.5**2 / 2  # row 1: 1 - (.5 - 2) = 2.5


def test_the_companion_objective_by_hand(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, alpha=[0.5, 2], gamma=4.0, total=10)
    prediction = SupervisedOutput(SCORED, (SCORED, SCORED))
    main = F.cross_entropy(SCORED, LABELS)
    first, second = 0.0, 2 + HINGE - 4  # .5 + 3.125 is below gamma
    assert [term.item() for term in criterion.terms(prediction, LABELS)[1]] == [first, second]
    for t in range(3):
        joint = main + 2 * 0.1 * (1 - t / 10) * second
        assert criterion(prediction, LABELS).item() == pytest.approx(joint.item(), rel=1e-14)
        criterion.step()


def test_the_gradient_of_the_companion_objective(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, alpha=0.5, gamma=4.0, schedule="constant")
    criterion(SupervisedOutput(SCORED, (SCORED, SCORED)), LABELS).backward()
    first, second = two_branches.branches.values()
    assert first.weight.grad.flatten().tolist() == [0, 0]  # satisfied
    assert second.weight.grad.flatten().tolist() == [1, 1]  # 0.5 * 2 w
    assert second.bias.grad is None


def test_a_removed_branch_is_gone_from_the_companion_objective(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, schedule="constant")
    with pytest.raises(ValueError, match="each of net's 2 branches, got 1"):
        criterion(SupervisedOutput(SCORED, (SCORED,)), LABELS)
    del two_branches.branches["a"]
    assert criterion.terms(SupervisedOutput(SCORED, (SCORED,)), LABELS)[1][0].item() == 2 + HINGE


def test_the_network_is_no_part_of_the_companion_objective(two_branches):
    criterion = CompanionObjective(two_branches, F.cross_entropy, schedule="constant")
    assert list(criterion.parameters()) == []
    assert list(criterion.modules()) == [criterion]
    assert set(criterion.state_dict()) == {"_extra_state"}


def test_the_companion_may_be_another_and_heads_are_dropped(two_branches):
    criterion = CompanionObjective(
        two_branches, F.cross_entropy, schedule="constant", drop_after=1, companion=F.cross_entropy
    )
    prediction = SupervisedOutput(SCORED, (SCORED, SCORED))
    plain = F.cross_entropy(SCORED, LABELS)
    assert criterion(prediction, LABELS).item() == pytest.approx((3 * plain + 2.5).item())
    criterion.step()
    assert criterion(prediction, LABELS) == plain


def test_the_companions_labels_may_be_in_the_batch(two_branches):
    criterion = CompanionObjective(
        two_branches, lambda output, batch: F.cross_entropy(output, batch["labels"]), schedule="constant"
    )
    first, second = criterion.terms(SupervisedOutput(SCORED, (SCORED, SCORED)), {"labels": LABELS})[1]
    assert (first.item(), second.item()) == (0.5 + HINGE, 2 + HINGE)


def test_a_network_without_branches_is_refused():
    with pytest.raises(TypeError, match=r"from gradprobe\.supervise, got Linear"):
        CompanionObjective(nn.Linear(1, 1), F.cross_entropy, total=3)


# torch.compile


def scores_of(output):
    if isinstance(output, torch.Tensor):
        return output
    if type(output) is tuple:
        return output[1]
    return output["logits"] if isinstance(output, dict) else output.logits


WRAPS = {
    "tensor": lambda scores, target: scores,
    "dict": lambda scores, target: {"loss": F.cross_entropy(scores, target), "logits": scores},
    "tuple": lambda scores, target: (F.cross_entropy(scores, target), scores),
    "ModelOutput": lambda scores, target: SequenceClassifierOutput(F.cross_entropy(scores, target), scores),
}


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in net.parameters()]


# torch.compile's own, while it traces an autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("wrap", "own"), [*((wrap, False) for wrap in WRAPS), ("dict", True), ("ModelOutput", True)]
)
def test_a_compiled_step_is_the_eager_one_in_every_epoch(wrap, own):
    torch._dynamo.reset()
    net = Supervised(WRAPS[wrap])
    loss_fn = None if own else lambda output, target: F.cross_entropy(scores_of(output), target)
    criterion = DeepSupervisionLoss(loss_fn, schedule="linear", total=50, drop_after=12, weights="halving")
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph

    step = torch.compile(lambda x, y: criterion(net(x, y), y), backend=backend, fullgraph=True)
    for _ in range(14):
        expected = criterion(net(x, y), y)
        wanted = gradients(net, expected)
        compiled = step(x, y)
        torch.testing.assert_close(compiled, expected)
        torch.testing.assert_close(gradients(net, compiled), wanted)
        criterion.step()
    assert len(compilations) == 2  # with the branch, and without


def test_a_compiled_step_with_the_companion_objective():
    torch._dynamo.reset()
    net = Supervised()
    criterion = CompanionObjective(net, F.cross_entropy, gamma=0.1, total=20)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    compiled = torch.compile(lambda x, y: criterion(net(x), y), backend="eager", fullgraph=True)(x, y)
    torch.testing.assert_close(compiled, criterion(net(x), y))


# torch.compile's own, where the graph ends at reading a value
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_own_loss_is_found_in_a_compiled_step():
    torch._dynamo.reset()
    net, criterion = Supervised(WRAPS["ModelOutput"]), constant(None)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    compiled = torch.compile(lambda x, y: criterion(net(x, y), y), backend="eager")(x, y)
    assert criterion._own_losses == ("cross entropy",)
    torch.testing.assert_close(compiled, criterion(net(x, y), y))
