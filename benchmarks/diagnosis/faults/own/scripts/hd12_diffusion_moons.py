import torch
from torch import nn
from sklearn.datasets import make_moons

torch.manual_seed(112)
data = torch.tensor(make_moons(2000, noise=0.05, random_state=0)[0], dtype=torch.float32)
data = (data - data.mean(0)) / data.std(0)
T = 40
beta = torch.linspace(1e-3, 0.2, T)
abar = (1 - beta).cumprod(0)


class Eps(nn.Module):
    def __init__(self):
        super().__init__()
        self.t = nn.Embedding(T, 32)
        self.net = nn.Sequential(nn.Linear(34, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x, t):
        return self.net(torch.cat([x, self.t(t)], 1))


net = Eps()
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
for it in range(2000):
    x0 = data[torch.randint(0, 2000, (128,))]
    t = torch.randint(0, T, (128,))
    eps = torch.randn_like(x0)
    xt = abar[t, None].sqrt() * x0 + (1 - abar[t, None]).sqrt() * eps
    loss = nn.functional.mse_loss(net(xt, t), eps)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 250 == 0:
        print(it, loss.item())
with torch.no_grad():
    x = torch.randn(1000, 2)
    for t in reversed(range(T)):
        e = net(x, torch.full((1000,), t))
        x = (x - beta[t] / (1 - abar[t]).sqrt() * e) / (1 - beta[t]).sqrt()
        if t:
            x += beta[t].sqrt() * torch.randn_like(x)
    near = torch.cdist(x, data).min(1).values
print("metric: mean_distance_to_data", near.mean().item())
