import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(34)
n = 1500
stamp = 1.6e9 + torch.rand(n) * 3.15e7
temp = 10 + 8 * torch.randn(n)
wind = torch.rand(n) * 12
hour = torch.randint(0, 24, (n,)).float()
load = torch.sin(hour / 24 * 6.2832) + 0.08 * (temp - 10) - 0.1 * wind + 0.1 * torch.randn(n)
X = torch.stack([stamp, temp, wind, hour], 1)
X = (X - X.mean(0)) / X.std(0)
y = ((load - load.mean()) / load.std())[:, None]

model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
loader = DataLoader(TensorDataset(X, y), batch_size=50, shuffle=True)
for epoch in range(15):
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(xb), yb)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - ((model(X) - y) ** 2).mean().item() / y.var().item())
