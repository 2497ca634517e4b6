"""Twelve losses of the field: the joint loss and its gradient are those of the loss written out by hand."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from monai.losses import DiceCELoss
from scipy.optimize import linear_sum_assignment
from torch import nn

import gradprobe as gp
from gradprobe.insert.companion import CompanionObjective

WEIGHT = 0.5


@dataclass
class Case:
    """A network with branches, a batch, a joint loss, and the same loss by hand."""

    net: gp.SupervisedModel
    inputs: Any
    target: Any
    criterion: Any  # made from a network: one criterion goes into the losses of one network
    by_hand: Callable[[gp.SupervisedModel, Any, tuple[Any, ...], Any], torch.Tensor]


def of_each(loss_fn):
    """The joint loss by hand, where each branch has the loss of the main output."""

    def by_hand(net, output, auxiliary, target):
        return loss_fn(output, target) + WEIGHT * sum(loss_fn(predicted, target) for predicted in auxiliary)

    return by_hand


def case(trunk, points, inputs, target, loss_fn, by_hand=None, **branch):
    net = gp.supervise(trunk, points, inputs=inputs, **branch)
    return Case(net, inputs, target, lambda _: constant(loss_fn), by_hand or of_each(loss_fn))


def constant(loss_fn, **more):
    return gp.DeepSupervisionLoss(loss_fn, weight=WEIGHT, schedule="constant", **more)


def mlp(outputs=5, last=()):
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs), *last)


def cross_entropy():
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0]))
    return case(mlp(), ["1", "3"], torch.randn(7, 6), torch.randint(5, (7,)), loss_fn)


def binary_cross_entropy():
    loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.full((5,), 3.0))
    return case(mlp(), ["1", "3"], torch.randn(7, 6), torch.randint(2, (7, 5)).float(), loss_fn)


class UNet(nn.Module):
    """Two stages down, two up; `up1` is at half of the resolution."""

    def __init__(self, classes=3):
        super().__init__()
        self.down = nn.Conv2d(1, 6, 3, 2, padding=1)
        self.up1 = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.up2 = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.out = nn.Conv2d(6, classes, 1)

    def forward(self, x):
        return self.out(self.up2(self.up1(self.down(x))))


def nearest(labels, size):
    return F.interpolate(labels.float(), size=size, mode="nearest-exact").to(labels.dtype)


def segmentation(loss_fn, labels):
    """With a branch at half of the resolution."""

    def by_hand(net, output, auxiliary, target):
        small = [predicted.shape[2:] for predicted in auxiliary]
        assert small == [(4, 4), (8, 8)]
        pairs = ((predicted, nearest(target, predicted.shape[2:])) for predicted in auxiliary)
        return loss_fn(output, target) + WEIGHT * sum(loss_fn(*pair) for pair in pairs)

    images = torch.randn(2, 1, 8, 8)
    return case(UNet(), ["up1", "up2"], images, labels, loss_fn, by_hand, branch="native")


def dice_and_cross_entropy():
    labels = 2.0 * torch.randint(
        2, (2, 1, 8, 8)
    )  # in floats, as MONAI's loaders give them, and no pixel of class 1
    return segmentation(DiceCELoss(to_onehot_y=True, softmax=True), labels)


def focal_loss(scores, labels):
    log = scores.float().log_softmax(1).gather(1, labels)
    return -((1 - log.exp()) ** 2 * log).mean()


def focal():
    return segmentation(focal_loss, torch.randint(3, (2, 1, 8, 8)))


def tversky_loss(scores, one_hot):
    p = scores.float().softmax(1)
    right, wrong, missed = ((a * b).sum((0, 2, 3)) for a, b in ((p, one_hot), (p, 1 - one_hot), (1 - p, one_hot)))
    return (1 - (right + 1) / (right + 0.3 * wrong + 0.7 * missed + 1)).mean()


def tversky():
    labels = torch.randint(3, (2, 8, 8))
    return segmentation(tversky_loss, F.one_hot(labels, 3).movedim(3, 1).float())


def ctc_loss(scores, target):
    log = scores.float().log_softmax(2).transpose(0, 1)
    return F.ctc_loss(log, target["text"], torch.full((3,), 9), target["lengths"])


def ctc():
    target = {"text": torch.randint(1, 5, (3, 4)), "lengths": torch.tensor([4, 3, 2])}
    return case(mlp(), ["1", "3"], torch.randn(3, 9, 6), target, ctc_loss)


class Detector(nn.Module):
    """A decoder whose last states have a head for classes and one for boxes, as in DETR."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.embed = nn.Linear(6, 8)
        self.layers = nn.ModuleList(nn.TransformerDecoderLayer(8, 2, 8, 0.0, batch_first=True) for _ in range(3))
        self.classes, self.boxes = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        memory, h = self.embed(x), self.queries.expand(len(x), -1, -1)
        for layer in self.layers:
            h = layer(h, memory)
        return {"pred_logits": self.classes(h), "pred_boxes": self.boxes(h).sigmoid()}


class Heads(nn.Module):
    """Both heads of a detector at another layer; they stay the detector's."""

    def __init__(self, detector):
        super().__init__()
        self.heads = (detector.classes, detector.boxes)  # in a tuple, where nn.Module does not look

    def forward(self, h):
        classes, boxes = self.heads
        return {"pred_logits": classes(h), "pred_boxes": boxes(h).sigmoid()}


@torch.compiler.disable
def matched(scores, boxes, labels, wanted):
    """Which query goes with which object, by the Hungarian method."""
    cost = 5 * torch.cdist(boxes, wanted, p=1) - scores.softmax(1)[:, labels]
    return map(torch.as_tensor, linear_sum_assignment(cost.detach().numpy()))


def set_loss(output, objects):
    """Classes by cross entropy (class 3 is "no object"), boxes by L1, after the Hungarian matching."""
    total = 0
    for scores, boxes, (labels, wanted) in zip(output["pred_logits"], output["pred_boxes"], objects, strict=True):
        scores, boxes = scores.float(), boxes.float()
        rows, columns = matched(scores, boxes, labels, wanted)
        classes = torch.full((5,), 3).index_put((rows,), labels[columns])
        total += F.cross_entropy(scores, classes) + 5 * F.l1_loss(boxes[rows], wanted[columns])
    return total / len(objects)


def objects():
    return [(torch.randint(3, (count,)), torch.rand(count, 4)) for count in (2, 3)]


def detection():
    detector = Detector()
    shared = {"branch": lambda point, output: Heads(detector)}
    return case(detector, ["layers.0", "layers.1"], torch.randn(2, 7, 6), objects(), set_loss, **shared)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 6)
        self.decode = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 6))

    def forward(self, x):
        mu, log_var = self.encode(x).chunk(2, 1)
        z = mu + (0.5 * log_var).exp() * torch.linspace(-1, 1, 3)  # fixed noise
        return {"recon": self.decode(z), "mu": mu, "log_var": log_var}


def reconstruction(made, x):
    return F.binary_cross_entropy_with_logits(made.float(), x, reduction="sum")


def divergence(output):
    return -0.5 * (1 + output["log_var"] - output["mu"].pow(2) - output["log_var"].exp()).sum()


def vae():
    def loss_fn(output, x):
        return (reconstruction(output["recon"], x) + 4 * divergence(output)) / len(x)

    def by_hand(net, output, auxiliary, x):
        branches = sum(reconstruction(predicted, x) / len(x) for predicted in auxiliary)
        return loss_fn(output, x) + WEIGHT * branches  # the divergence once

    images = torch.rand(4, 6)
    return case(VAE(), ["decode.1", "decode.3"], images, images, loss_fn, by_hand)


def contrastive_loss(embedded, labels):
    """NT-Xent of SimCLR: row i and row i + N are two views of one image."""
    z = F.normalize(embedded.float(), dim=1)
    alike = (z @ z.T / 0.2).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e4)
    return F.cross_entropy(alike, torch.arange(len(z)).roll(len(z) // 2))


def contrastive():
    return case(mlp(), ["1", "3"], torch.randn(8, 6), torch.zeros(8), contrastive_loss)


def hinge():
    net = gp.supervise(mlp(), ["1", "3"], inputs=torch.randn(7, 6), branch="svm")
    labels = torch.randint(5, (7,))

    def squared(scores, labels):
        right = scores.gather(1, labels[:, None])
        others = F.one_hot(labels, 5) == 0
        return ((1 - right + scores).clamp(min=0).square() * others).sum(1).mean()

    def by_hand(net, output, auxiliary, target):
        norms = (branch.fc.weight.square().sum() for branch in net.branches.values())
        terms = (squared(predicted, target) + norm - 1 for predicted, norm in zip(auxiliary, norms, strict=True))
        return F.cross_entropy(output, target) + WEIGHT * sum(term.clamp(min=0) for term in terms)

    def criterion(net):
        return CompanionObjective(net, F.cross_entropy, alpha=WEIGHT, gamma=1.0, schedule="constant")

    return Case(net, torch.randn(7, 6), labels, criterion, by_hand)


class Scales(nn.Module):
    """A depth network whose output is a list of scales."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.heads = nn.ModuleList([nn.Conv2d(4, 1, 1), nn.Conv2d(4, 1, 1)])

    def forward(self, x):
        h = self.mix(self.stem(x).tanh())
        return [self.heads[0](h), self.heads[1](F.avg_pool2d(h, 2))]


def huber_over_scales(scales, depth):
    return sum(F.huber_loss(scale, F.interpolate(depth, scale.shape[2:])) for scale in scales)


def huber():
    return case(Scales(), ["stem"], torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), huber_over_scales)


def own_loss():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 2}
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**sizes, **dropouts, vocab_size=20, num_labels=4)
    model = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(20, (4, 5)), "labels": torch.randint(4, (4,))}

    def by_hand(net, output, auxiliary, batch):
        branches = sum(F.cross_entropy(predicted, batch["labels"]) for predicted in auxiliary)
        return F.cross_entropy(output.logits, batch["labels"]) + WEIGHT * branches

    points = ["bert.embeddings", "bert.encoder.layer.0"]
    return case(model, points, batch, batch, None, by_hand)


CASES = {
    "cross entropy": cross_entropy,
    "binary cross entropy": binary_cross_entropy,
    "Dice and cross entropy": dice_and_cross_entropy,
    "focal": focal,
    "Tversky": tversky,
    "CTC": ctc,
    "DETR's set loss": detection,
    "VAE": vae,
    "contrastive": contrastive,
    "hinge of DSN": hinge,
    "Huber over scales": huber,
    "a model's own": own_loss,
}
assert len(CASES) == 12


def forward(net, inputs):
    return net(**inputs) if isinstance(inputs, dict) else net(inputs)


def joint(case, criterion):
    return criterion(forward(case.net, case.inputs), case.target)


def hand(case):
    made = forward(case.net, case.inputs)
    return case.by_hand(case.net, made.output, made.auxiliary, case.target)


def plain(loss_of):
    loss = loss_of()
    loss.backward()
    return loss


def autocast(loss_of):
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of()
    loss.backward()
    return loss


def scaled(loss_of):
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    with torch.autocast("cpu", torch.float16):
        loss = loss_of()
    scaler.scale(loss).backward()
    return loss


def accumulated(loss_of):
    losses = [loss_of() / 3 for _ in range(3)]
    for loss in losses:
        loss.backward()
    return sum(losses)


def compiled(loss_of):
    torch._dynamo.reset()
    step = torch.compile(loss_of, backend="eager")
    step().detach()  # from the second call on no value is looked at
    loss = step()
    loss.backward()
    return loss


SEEDS = int(os.environ.get("FIELD_SEEDS", "1"))  # from 2 on every loss is compiled as well, which takes a minute
COMPILED = CASES if SEEDS > 1 else ("cross entropy", "VAE", "hinge of DSN")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, way) for way in (plain, autocast, scaled, accumulated) for name in CASES),
        *((name, compiled) for name in COMPILED),
    ],
)
# torch's own, where a compiled graph ends at reading a value, and while it traces an autograd.Function
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_loss_of_the_field_is_the_one_by_hand(name, way):
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        case = CASES[name]()
        shadow = copy.deepcopy(case)
        criterion = case.criterion(case.net)
        torch.testing.assert_close(
            way(lambda case=case, criterion=criterion: joint(case, criterion)),
            (plain if way is compiled else way)(lambda shadow=shadow: hand(shadow)),
            rtol=1e-6,
            atol=1e-6,
        )
        grads, expected = (
            {name: parameter.grad for name, parameter in each.net.named_parameters()} for each in (case, shadow)
        )
        torch.testing.assert_close(grads, expected, rtol=1e-5, atol=1e-6)
