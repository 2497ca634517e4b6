import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(39)
n = 300
level = torch.randn(n)
img = level[:, None, None, None] + 0.4 * torch.randn(n, 1, 8, 8)
loader = DataLoader(TensorDataset(img, level[:, None]), batch_size=16, shuffle=True)

net = nn.Sequential(
    nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
    nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(16):
    net.train()
    total = 0
    for xb, yb in loader:
        opt.zero_grad()
        loss = nn.functional.mse_loss(net(xb), yb)
        loss.backward()
        opt.step()
        total += loss.item()
    print(epoch, total / len(loader))
net.eval()
with torch.no_grad():
    pred = net(img)[:, 0]
print("metric: r2", 1 - ((pred - level) ** 2).mean().item() / level.var().item())
