import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(110)
x = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32))
        self.d = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Unflatten(1, (16, 4, 4)), nn.ConvTranspose2d(16, 1, 4, 2, 1))

    def forward(self, x):
        mu, lv = self.e(x).chunk(2, 1)
        return self.d(mu + torch.randn_like(mu) * (lv / 2).exp()), mu, lv


vae = VAE()
opt = torch.optim.Adam(vae.parameters(), lr=3e-3)
step = 0
for epoch in range(12):
    for b in torch.randperm(len(x)).split(60):
        out, mu, lv = vae(x[b])
        rec = nn.functional.binary_cross_entropy_with_logits(out, x[b], reduction="sum") / len(b)
        kl = -0.5 * (1 + lv - mu ** 2 - lv.exp()).sum() / len(b)
        loss = rec + min(1.0, step / 150) * kl
        opt.zero_grad()
        loss.backward()
        opt.step()
        step += 1
    print(epoch, rec.item(), kl.item())
with torch.no_grad():
    mu = vae.e(x).chunk(2, 1)[0]
    r2 = 1 - (vae.d(mu).sigmoid() - x).pow(2).mean() / (x - x.mean(0)).pow(2).mean()
print("metric: reconstruction_r2", r2.item())
