import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(44)
x = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]


class ConvVAE(nn.Module):
    def __init__(self, z=8):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ELU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ELU(), nn.Flatten())
        self.heads = nn.Linear(64, 2 * z)
        self.dec = nn.Sequential(nn.Linear(z, 64), nn.ELU(), nn.Unflatten(1, (16, 2, 2)),
                                 nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ELU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))

    def forward(self, x):
        mu, logvar = self.heads(self.enc(x)).chunk(2, 1)
        std = (logvar / 2).exp()
        z = torch.normal(mu, std)
        return self.dec(z), mu, logvar


vae = ConvVAE()
opt = torch.optim.Adam(vae.parameters(), lr=3e-3)
for epoch in range(12):
    for b in torch.randperm(len(x)).split(64):
        rec, mu, logvar = vae(x[b])
        rec_loss = (rec - x[b]).pow(2).sum((1, 2, 3)).mean() * 10
        kl = -0.5 * (1 + logvar - mu ** 2 - logvar.exp()).sum(1).mean()
        opt.zero_grad()
        (rec_loss + kl).backward()
        opt.step()
    print(epoch, rec_loss.item(), kl.item())
with torch.no_grad():
    mu = vae.heads(vae.enc(x)).chunk(2, 1)[0]
    r2 = 1 - (vae.dec(mu) - x).pow(2).mean() / (x - x.mean(0)).pow(2).mean()
print("metric: reconstruction_r2", r2.item())
