import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(14)
x = torch.tensor(load_digits().data / 16, dtype=torch.float32)


class VAE(nn.Module):
    def __init__(self, z=6):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 96), nn.ReLU())
        self.mu, self.logvar = nn.Linear(96, z), nn.Linear(96, z)
        self.dec = nn.Sequential(nn.Linear(z, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, x):
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.dec(z), mu, logvar


def loss_function(recon, x, mu, logvar):
    rec = nn.functional.binary_cross_entropy(recon, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (rec + kld) / len(x)


model = VAE()
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(25):
    for b in torch.randperm(len(x)).split(100):
        recon, mu, logvar = model(x[b])
        loss = loss_function(recon, x[b], mu, logvar)
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    mu = model.mu(model.enc(x))
    r2 = 1 - ((model.dec(mu) - x) ** 2).mean() / ((x - x.mean(0)) ** 2).mean()
print("metric: reconstruction_r2", r2.item())
