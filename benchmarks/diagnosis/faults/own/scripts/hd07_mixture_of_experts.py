import torch
from torch import nn

torch.manual_seed(107)
x = torch.randn(1500, 4)
region = (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()
slopes = torch.randn(4, 4) * 2
y = (x * slopes[region]).sum(1, keepdim=True)
y = y / y.std()


class MoE(nn.Module):
    def __init__(self, k=6):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, k))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(k))

    def forward(self, x):
        w = self.gate(x).softmax(1)
        out = torch.stack([e(x) for e in self.experts], 1)
        return (w[..., None] * out).sum(1), w


model = MoE()
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(15):
    for b in torch.randperm(1500).split(75):
        out, w = model(x[b])
        balance = (w.mean(0) ** 2).sum() * 6
        loss = nn.functional.mse_loss(out, y[b]) + 0.01 * balance
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(model(x)[0], y).item() / y.var().item())
