"""Parts of a training of their own: the accuracy on held-out data."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gradprobe.measure.batches import Batches
from gradprobe.prove.held_out.accuracy import accuracy


@dataclass
class Answer:
    loss: torch.Tensor
    logits: torch.Tensor


class Named(nn.Module):
    """Takes keywords, as transformers' models do; the logits are what it is given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *, scores, labels):
        return self.answer(loss=nn.functional.cross_entropy(scores, labels), logits=scores)


@pytest.mark.parametrize("answer", [dict, Answer])
def test_the_accuracy_of_batches_that_are_dicts(answer):
    batches = [
        # the largest of each row is at 1, 0, 1
        {"scores": torch.tensor([[1.0, 2.0], [5.0, 1.0], [0.0, 3.0]]), "labels": torch.tensor([1, 1, 1])},
        {"scores": torch.tensor([[9.0, 0.0]]), "labels": torch.tensor([0])},
    ]
    assert accuracy(Named(answer), Batches(batches)) == 3 / 4
