import torch
from torch import nn
from sklearn.preprocessing import StandardScaler

torch.manual_seed(309)
x = torch.linspace(0, 2000, 400).unsqueeze(1)
y = 300 * torch.sin(x / 300) + 0.5 * x + 20 * torch.randn(400, 1)
x = torch.tensor(StandardScaler().fit_transform(x), dtype=torch.float32)
y = torch.tensor(StandardScaler().fit_transform(y), dtype=torch.float32)


class Regressor(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.body(x))


net = Regressor()
optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
mse = nn.MSELoss()
for epoch in range(60):
    perm = torch.randperm(400)
    for i in range(0, 400, 40):
        batch = perm[i : i + 40]
        optimizer.zero_grad()
        loss = mse(net(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    if epoch % 10 == 0:
        print("epoch", epoch, "mse", loss.item())
with torch.no_grad():
    print("R2", 1 - (mse(net(x), y) / y.var()).item())
