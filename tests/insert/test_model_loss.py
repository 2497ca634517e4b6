"""Models that compute their own loss, whose function is found for the branches."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from support.losses import LOSS, SCORES, constant
from transformers.modeling_outputs import SequenceClassifierOutput

from gradprobe import DeepSupervisionLoss, SupervisedOutput
from gradprobe.insert.model_loss import OWN_LOSSES, branch_loss, labels_of, matching_losses, own_loss

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
def test_the_function_of_the_models_own_loss_is_found(kind):
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
        names = matching_losses(tuple(OWN_LOSSES), output, torch.tensor([3, 0, 2]), output.loss)
    assert names == ("cross entropy",)


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
    assert set(criterion._branches.candidates) == {"cross entropy, classes last", "next-token cross entropy"}
    scores = torch.randn(2, 5, 3)
    criterion(SupervisedOutput(own_output(scores, labels), (scores,)), labels)
    assert criterion._branches.candidates == ("next-token cross entropy",)


def test_a_loss_that_is_not_finite_is_no_error():
    scores = torch.full((2, 3), math.nan)
    output = {"loss": torch.tensor(math.nan), "scores": scores}
    assert matching_losses(tuple(OWN_LOSSES), output, torch.tensor([0, 1]), output["loss"]) == ("cross entropy",)


def test_what_is_found_once_is_not_looked_for_again(monkeypatch):
    criterion = constant(None)
    scores, labels = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    output = {"loss": F.cross_entropy(scores, labels), "scores": scores}
    first = criterion(SupervisedOutput(output, (scores,)), labels)
    monkeypatch.setattr("gradprobe.insert.branch_losses.matching_losses", None)
    assert criterion(SupervisedOutput(output, (scores,)), labels) == first


@pytest.mark.parametrize("smoothed", [{"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 5.0, 1.0])}])
def test_a_loss_that_no_function_gives_is_refused(smoothed):
    torch.manual_seed(0)
    scores, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    output = {"loss": F.cross_entropy(scores, labels, **smoothed), "scores": scores}
    with pytest.raises(ValueError, match="pass loss_fn="):
        constant(None)(SupervisedOutput(output, (scores,)), labels)
    # the trunk alone, a plain loss_fn, and a loss for the branches work
    joint = constant(None, branch_loss=F.cross_entropy, weight=1.0)(SupervisedOutput(output, (scores,)), labels)
    assert joint == output["loss"] + F.cross_entropy(scores, labels)
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
