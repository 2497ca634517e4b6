import copy
import torch
from torch import nn

torch.manual_seed(71)
x = torch.rand(1200, 2) * 6 - 3
y = (torch.sin(2 * x[:, :1]) + torch.cos(1.5 * x[:, 1:]))


def expert():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


class Mixture(nn.Module):
    def __init__(self, k=16):
        super().__init__()
        first = expert()
        self.experts = nn.ModuleList(expert() for _ in range(k))
        self.gate = nn.Linear(2, k)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x):
        out = torch.cat([e(x) for e in self.experts], 1)
        return (out * self.gate(x).softmax(1)).sum(1, keepdim=True)


model = Mixture()
opt = torch.optim.Adam(model.parameters(), lr=2e-2)
for epoch in range(20):
    for b in torch.randperm(1200).split(60):
        loss = nn.functional.mse_loss(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(model(x), y).item() / y.var().item())
