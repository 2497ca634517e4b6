"""The way out of a step that fails: what is advised is done here, and then the step succeeds."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy, mse_loss

import gradprobe as gp

MLP = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
ONE = nn.Linear(8, 1)
CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 4))
FLAT = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(144, 4))
SEQUENCE = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(24, 4))
NORMED = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
WORDS = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x), x


class Named(Pair):
    def forward(self, x):
        return {"scores": self.fc(x)}


class Unfinished(Pair):
    forward = nn.Module.forward


x, y = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 0, 1])
image = torch.randn(6, 3, 8, 8)
words = torch.tensor([[0, 1, 8]] * 6)

# model, inputs, target, loss; what is advised; the same with the advice taken, or None
CASES = {
    "float64": (MLP, x.double(), y, cross_entropy, "pass x.float()", (MLP, x, y, cross_entropy)),
    "whole numbers": (
        MLP,
        x.long(),
        y,
        cross_entropy,
        "pass x.float()",
        (MLP, x.long().float(), y, cross_entropy),
    ),
    "bytes": (
        CONV,
        image.byte(),
        y,
        cross_entropy,
        "x.float() / 255",
        (CONV, image.byte() / 255, y, cross_entropy),
    ),
    "numpy": (MLP, x.numpy(), y, cross_entropy, "torch.from_numpy", (MLP, x, y, cross_entropy)),
    "a list": (MLP, list(x), y, cross_entropy, "torch.stack", (MLP, torch.stack(list(x)), y, cross_entropy)),
    "not flat": (
        FLAT,
        image,
        y,
        cross_entropy,
        "1 (Linear) takes 144 features and got (6, 4, 6, 6): put nn.Flatten()",
        None,
    ),
    "features": (MLP, x[:, :5], y, cross_entropy, "takes 8 features and got (6, 5): build it with 5", None),
    "no channels": (
        SEQUENCE,
        x,
        y,
        cross_entropy,
        "x.unsqueeze(1)",
        (SEQUENCE, x.unsqueeze(1), y, cross_entropy),
    ),
    "channels last": (
        CONV,
        image.permute(0, 2, 3, 1),
        y,
        cross_entropy,
        "x.permute(0, 3, 1, 2)",
        (CONV, image.permute(0, 2, 3, 1).permute(0, 3, 1, 2), y, cross_entropy),
    ),
    "channels": (CONV, image[:, :1], y, cross_entropy, "0 (Conv2d) takes 3 channels and got (6, 1, 8, 8)", None),
    "an index too many": (WORDS, words + 1, y, cross_entropy, "the indices 0 to 8, and got 1 to 9", None),
    "words as floats": (WORDS, words.float(), y, cross_entropy, "pass x.long()", (WORDS, words, y, cross_entropy)),
    "one sample": (NORMED, x[:1], y[:1], cross_entropy, "two or more", (NORMED, x[:2], y[:2], cross_entropy)),
    "two inputs": (
        MLP,
        (x, x),
        y,
        cross_entropy,
        "a tuple of 2, and forward takes (input)",
        (MLP, x, y, cross_entropy),
    ),
    "no forward": (Unfinished(), x, y, cross_entropy, "Unfinished has no forward", None),
    "a pair": (Pair(), x, y, cross_entropy, "output[0]", (Pair(), x, y, lambda o, t: cross_entropy(o[0], t))),
    "named": (
        Named(),
        x,
        y,
        cross_entropy,
        "output['scores']",
        (Named(), x, y, lambda o, t: cross_entropy(o["scores"], t)),
    ),
    "int32": (MLP, x, y.int(), cross_entropy, "pass y.long()", (MLP, x, y.int().long(), cross_entropy)),
    "float labels": (MLP, x, y.float(), cross_entropy, "pass y.long()", (MLP, x, y, cross_entropy)),
    "a column": (MLP, x, y[:, None], cross_entropy, "pass y.squeeze(1)", (MLP, x, y, cross_entropy)),
    "from one": (MLP, x, y + 1, cross_entropy, "pass y - 1", (MLP, x, y, cross_entropy)),
    "too many": (MLP, x, y + 5, cross_entropy, "give the last layer 9 outputs", None),
    "negative": (
        MLP,
        x,
        y - 1,
        cross_entropy,
        "ignore_index=-1",
        (MLP, x, y - 1, nn.CrossEntropyLoss(ignore_index=-1)),
    ),
    "rows": (MLP, x, y[:5], cross_entropy, "the output has 6 rows (6, 4) and the target 5 (5,)", None),
    "one score": (
        ONE,
        x,
        y.clamp(max=1),
        bce,
        "y.unsqueeze(1).float()",
        (ONE, x, y.clamp(max=1).unsqueeze(1).float(), bce),
    ),
    "numpy labels": (MLP, x, y.numpy(), cross_entropy, "NumPy arrays", (MLP, x, y, cross_entropy)),
    "a single label": (MLP, x[0], 3, cross_entropy, "one sample: DataLoader", None),
    "other precision": (
        ONE,
        x,
        torch.zeros(6, 1, dtype=torch.float64),
        lambda o, t: mse_loss(o, t) + torch.mm(o.T, t).sum(),
        "pass y.to(torch.float32)",
        (ONE, x, torch.zeros(6, 1), mse_loss),
    ),
}


def notes_of(model, inputs, target, loss):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (torch's own, of many kinds)
        gp.scan(model, [(inputs, target)], loss, iterations=1)
    return getattr(caught.value, "__notes__", [""])


@pytest.mark.parametrize("case", CASES)
def test_the_advice_is_given_and_it_helps(case):
    *step, advice, mended = CASES[case]
    assert advice in notes_of(*step)[-1]
    if mended is not None:
        model, inputs, target, loss = mended
        assert gp.scan(model, [(inputs, target)], loss, iterations=1).iterations == 1


def test_a_dict_goes_in_as_keywords():
    batch = {"pixels": x, "label": y}
    with pytest.raises(TypeError) as caught:
        gp.scan(MLP, [batch], cross_entropy, iterations=1)
    advice = "((batch['pixels'], batch['label']) for batch in loader)"
    assert advice in caught.value.__notes__[-1]
    batches = eval(advice, {"loader": [batch]})
    assert gp.scan(MLP, list(batches), cross_entropy, iterations=1).iterations == 1


def test_an_error_that_says_it_all_gets_no_advice():
    class Broken(nn.Sequential):
        def forward(self, x):
            raise RuntimeError("of mine")

    notes = notes_of(Broken(nn.Linear(8, 4)), x, y, cross_entropy)
    assert notes == ["iteration 0, inputs of shape (6, 8)"]
    explained = notes_of(MLP, x, y, lambda output, target: _raise_from())
    assert explained == ["iteration 0, inputs of shape (6, 8)"]


def _raise_from():
    raise ValueError("explained") from RuntimeError("first")


def test_ignored_labels_and_images_of_labels_are_right():
    """A loss that fails for another reason: nothing is said of labels that fit."""

    def fails(output, target):
        raise RuntimeError("of mine")

    segmenter, mask = nn.Conv2d(3, 4, 1), torch.randint(4, (6, 8, 8))
    mask[0, 0, 0] = -100
    assert len(notes_of(segmenter, image, mask, fails)) == 1
    assert "pass y.squeeze(1)" in notes_of(segmenter, image, mask[:, None], fails)[-1]
    assert len(notes_of(MLP, x, torch.rand(6, 4), fails)) == 1


RETURNS = {
    "a tuple": (lambda o, t: (cross_entropy(o, t), {}), "loss(output, target)[0]"),
    "a dict": (lambda o, t: {"loss": cross_entropy(o, t)}, "'loss'"),
    "nothing": (lambda o, t: None, "without a return"),
    "a float": (lambda o, t: cross_entropy(o, t).item(), "leave .item()"),
}


@pytest.mark.parametrize("case", RETURNS)
def test_what_a_loss_returns_that_is_no_scalar(case):
    loss, advice = RETURNS[case]
    with pytest.raises(TypeError, match="expected the loss to be a scalar tensor") as caught:
        gp.scan(MLP, [(x, y)], loss, iterations=1)
    assert advice in str(caught.value)


BATCHES = {
    "three": ([(x, y, y)], r"\(\(x, y\) for x, y, \*_ in loader\)"),
    "one": ([(x,)], "the target is missing"),
    "a tensor": ([x], "with x twice for an autoencoder"),
    "a dataset": (torch.utils.data.TensorDataset(x, y), r"DataLoader\(dataset, batch_size=32\)"),
    "an array": (np.zeros((6, 8, 2)), "pair them"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_what_is_no_batch(case):
    batches, advice = BATCHES[case]
    with pytest.raises(TypeError, match=advice):
        gp.scan(MLP, batches, cross_entropy, iterations=1)


def test_switched_off_gradients_and_optimizers_of_other_kinds():
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are switched off"):
        gp.scan(MLP, [(x, y)], cross_entropy, iterations=1)
    for made, advice in ((None, "without a return"), ((1, 2), "return the optimizer alone")):
        with pytest.raises(TypeError, match=advice):
            gp.scan(MLP, [(x, y)], cross_entropy, iterations=1, optimizer=lambda model, made=made: made)
