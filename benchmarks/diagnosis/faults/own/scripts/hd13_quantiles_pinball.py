import torch
from torch import nn

torch.manual_seed(113)
x = torch.rand(1500, 1) * 4 - 2
y = torch.sin(2 * x) + (0.1 + 0.3 * x.abs()) * torch.randn_like(x)
taus = torch.tensor([0.1, 0.5, 0.9])
net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(20):
    for b in torch.randperm(1500).split(75):
        d = y[b] - net(x[b])
        loss = torch.maximum(taus * d, (taus - 1) * d).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    q = net(x)
    cover = ((y > q[:, :1]) & (y < q[:, 2:])).float().mean().item()
print("metric: coverage_of_80_percent_band", cover)
