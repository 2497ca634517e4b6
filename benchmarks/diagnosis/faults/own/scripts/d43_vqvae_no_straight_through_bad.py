import torch
from torch import nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(43)
x = torch.tensor(load_digits().data / 16, dtype=torch.float32)


class VQ(nn.Module):
    def __init__(self, k=24, d=4, groups=4):
        super().__init__()
        self.groups, self.d = groups, d
        self.enc = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, groups * d))
        self.book = nn.Embedding(k, d)
        nn.init.uniform_(self.book.weight, -0.3, 0.3)
        self.dec = nn.Sequential(nn.Linear(groups * d, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        z = self.enc(x).view(-1, self.groups, self.d)
        idx = torch.cdist(z.detach().reshape(-1, self.d), self.book.weight).argmin(1)
        q = self.book(idx).view_as(z)
        vq = F.mse_loss(q, z.detach())
        return self.dec(q.flatten(1)), vq


model = VQ()
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(16):
    for b in torch.randperm(len(x)).split(64):
        rec, vq = model(x[b])
        loss = F.mse_loss(rec, x[b]) + 0.25 * vq
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 4 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    r2 = 1 - (model(x)[0] - x).pow(2).mean() / (x - x.mean(0)).pow(2).mean()
print("metric: reconstruction_r2", r2.item())
