"""An optimizer that needs a closure and calls it several times a step."""

import torch
import torch.nn.functional as F
from plain import batches, build

model = build(1)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
for x, y in batches(3):

    def closure(x=x, y=y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
