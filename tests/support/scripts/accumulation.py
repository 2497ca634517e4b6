"""Two micro-batches a step, under a gradient scaler, and a schedule."""

import torch
import torch.nn.functional as F
from plain import batches, build

model = build(2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
for step, (x, y) in enumerate(batches(8)):
    loss = F.cross_entropy(model(x), y) / 2
    scaler.scale(loss).backward()
    if step % 2:
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scheduler.step()
