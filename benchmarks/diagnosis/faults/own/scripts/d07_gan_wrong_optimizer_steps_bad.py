import torch
from torch import nn

torch.manual_seed(7)


def real_batch(n):
    angle = torch.rand(n) * 6.2832
    r = 2 + 0.05 * torch.randn(n)
    return torch.stack([r * angle.cos() + 3, r * angle.sin()], 1)


G = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
D = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.99))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.99))
bce = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(128, 1), torch.zeros(128, 1)

for it in range(600):
    fake = G(torch.randn(128, 8))
    loss_d = bce(D(real_batch(128)), ones * 0.9) + bce(D(fake.detach()), zeros)
    opt_d.zero_grad()
    loss_d.backward()
    opt_d.step()

    loss_g = bce(D(fake), ones)
    opt_g.zero_grad()
    loss_g.backward()
    opt_d.step()
    if it % 100 == 0:
        print(it, loss_d.item(), loss_g.item())

with torch.no_grad():
    s = G(torch.randn(2000, 8))
    radius = (s - torch.tensor([3.0, 0.0])).norm(dim=1)
print("metric: share_near_ring", ((radius - 2).abs() < 0.5).float().mean().item())
