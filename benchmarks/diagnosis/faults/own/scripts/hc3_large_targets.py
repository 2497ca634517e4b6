import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(403)
x = torch.randn(1000, 4)
y = 30 * x[:, :1] - 20 * x[:, 1:2] * x[:, 2:3] + 15
loader = DataLoader(TensorDataset(x, y), batch_size=25, shuffle=True)
model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(10):
    for xb, yb in loader:
        loss = nn.functional.mse_loss(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("R2", 1 - (nn.functional.mse_loss(model(x), y) / y.var()).item())
