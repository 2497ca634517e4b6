"""forward() returns the loss, as wrappers of diffusion models and segmentation networks do."""
# ruff: noqa

import torch
from torch import nn


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *[nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(16)], nn.Linear(16, 16)
        )

    def forward(self, x):
        noise = torch.randn_like(x)
        return nn.functional.mse_loss(self.net(x + noise), noise)


torch.manual_seed(0)
model = Wrapper()
optimizer = torch.optim.Adam(model.parameters())
for step in range(20):
    optimizer.zero_grad()
    loss = model(torch.randn(32, 16))
    loss.backward()
    optimizer.step()
