import torch
from torch import nn
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

torch.manual_seed(358)
x = torch.tensor(StandardScaler().fit_transform(load_breast_cancer().data), dtype=torch.float32)


class VAE(nn.Module):
    def __init__(self, latent=4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(30, 32), nn.Tanh())
        self.mu, self.log_var = nn.Linear(32, latent), nn.Linear(32, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 32), nn.Tanh(), nn.Linear(32, 30), nn.Sigmoid())

    def forward(self, x):
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
        return self.decoder(z), mu, log_var


vae = VAE()
optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
for epoch in range(60):
    for idx in torch.randperm(len(x)).split(32):
        decoded, mu, log_var = vae(x[idx])
        reconstruction = nn.functional.mse_loss(decoded, x[idx], reduction="sum") / len(idx)
        kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(1).mean()
        loss = reconstruction + 0.1 * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 10 == 0:
        print(epoch, reconstruction.item(), kl.item())
with torch.no_grad():
    print("R2", 1 - ((vae(x)[0] - x) ** 2).mean().item())
