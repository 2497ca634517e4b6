import torch
from torch import nn

torch.manual_seed(57)
n = 1200
area = torch.rand(n) * 150 + 30
rooms = (area / 30 + torch.randn(n)).round().clamp(1)
age = torch.rand(n) * 80
lat, lon = torch.randn(2, n)
price = 0.02 * area + 0.2 * rooms - 0.015 * age + torch.exp(-(lat ** 2 + lon ** 2)) * 3 + 0.1 * torch.randn(n)
x = torch.stack([area, rooms, age, lat, lon], 1)
x = (x - x.mean(0)) / x.std(0)
y = (price - price.mean()) / price.std()

model = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
opt = torch.optim.Adagrad(model.parameters(), lr=0.05)
for epoch in range(18):
    for b in torch.randperm(n).split(60):
        loss = nn.functional.mse_loss(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(model(x), y).item() / y.var().item())
