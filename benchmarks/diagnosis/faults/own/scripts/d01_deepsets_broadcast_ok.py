import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(1)
n, set_size = 1024, 20
scale = torch.rand(n, 1, 1) * 2 + 0.2
X = torch.randn(n, set_size, 2) * scale
y = X.std(dim=1).mean(dim=1).log()


class DeepSet(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(2, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU())
        self.rho = nn.Sequential(nn.Linear(hidden, hidden), nn.ELU(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.rho(self.phi(x).mean(1))


model = DeepSet()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
for step in range(320):
    idx = torch.randint(0, n, (128,))
    y_pred = model(X[idx])
    loss = ((y_pred - y[idx].unsqueeze(1)) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 80 == 0:
        print(step, float(loss))

with torch.no_grad():
    r2 = 1 - (model(X).squeeze(1) - y).pow(2).mean() / y.var()
print("metric: r2", round(r2.item(), 4))
