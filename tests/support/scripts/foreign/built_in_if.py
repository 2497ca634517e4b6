"""The model is made in one of several branches of an `if`, as in nanoGPT."""
# ruff: noqa

import torch
from torch import nn

init_from = "scratch"


def make():
    return nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(16)], nn.Linear(16, 3))


torch.manual_seed(0)
if init_from == "scratch":
    model = make()
elif init_from == "resume":
    model = make()
    model.load_state_dict(torch.load("ckpt.pt"))
else:
    model = make()  # <- "behind line 19": never runs here
model.to("cpu")
optimizer = torch.optim.Adam(model.parameters())
for step in range(20):
    x, y = torch.randn(32, 16), torch.randint(3, (32,))
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
