import math
import torch
from torch import nn


def spiral(n):
    t = torch.rand(n) * 2 * math.pi + 1.0
    arm = torch.randint(0, 2, (n,))
    angle = t + math.pi * arm
    return torch.stack([t * angle.cos(), t * angle.sin()], 1) / 4 + 0.02 * torch.randn(n, 2), arm


torch.manual_seed(323)
xy, arm = spiral(1000)
model = nn.Sequential(
    nn.Linear(2, 64),
    nn.Linear(64, 64),
    nn.Linear(64, 32),
    nn.Linear(32, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for epoch in range(60):
    for idx in torch.randperm(1000).split(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(xy[idx]), arm[idx])
        loss.backward()
        optimizer.step()
    if epoch % 10 == 0:
        print(epoch, loss.item())
print("accuracy", (model(xy).argmax(1) == arm).float().mean().item())
