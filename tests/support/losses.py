"""A joint loss with a constant weight, and values for it."""

import torch
import torch.nn.functional as F

from gradprobe import DeepSupervisionLoss


def constant(loss_fn=F.mse_loss, **more):
    return DeepSupervisionLoss(loss_fn, schedule="constant", **more)


LOSS, SCORES, MADE = torch.tensor(0.5), torch.ones(2, 3), torch.zeros(2, 3)
