import torch
from torch import nn

torch.manual_seed(363)
voltage = torch.rand(800, 3) * 2 - 1
current = 2e-6 * (voltage[:, :1] ** 3 + voltage[:, 1:2] * voltage[:, 2:])
model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for epoch in range(25):
    for idx in torch.randperm(800).split(32):
        loss = nn.functional.mse_loss(model(voltage[idx]), current[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    error = nn.functional.mse_loss(model(voltage), current)
    print("R2", 1 - (error / current.var()).item())
