import torch
from torch import nn

torch.manual_seed(361)
angle = torch.rand(4000) * 6.2832
data = torch.stack([angle.cos(), angle.sin()], 1) * 1.5
T = 50
betas = torch.linspace(1e-3, 0.15, T)
alpha_bar = torch.cumprod(1 - betas, 0)


class Denoiser(nn.Module):
    def __init__(self, width=96):
        super().__init__()
        self.time = nn.Embedding(T, 16)
        self.net = nn.Sequential(nn.Linear(18, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, t):
        return self.net(torch.cat([x, self.time(t)], 1))


def noised(n):
    x0 = data[torch.randint(0, len(data), (n,))]
    t = torch.randint(0, T, (n,))
    noise = torch.randn_like(x0)
    a = alpha_bar[t].unsqueeze(1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise, t, noise


model = Denoiser()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for step in range(1000):
    x, t, noise = noised(128)
    loss = nn.functional.mse_loss(model(x, t), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 200 == 0:
        print(step, loss.item())
with torch.no_grad():
    x, t, noise = noised(4000)
    print("R2 of the noise", 1 - ((model(x, t) - noise) ** 2).mean().item())
