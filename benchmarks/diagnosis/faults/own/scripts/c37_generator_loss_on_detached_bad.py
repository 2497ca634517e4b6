import torch
from torch import nn


def mlp(*sizes):
    layers = []
    for a, b in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


torch.manual_seed(337)
real_data = torch.randn(3000, 2) * 0.3 + torch.tensor([2.0, -1.0])
G, D = mlp(4, 32, 32, 2), mlp(2, 32, 32, 1)
opt_G = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.5, 0.999))
opt_D = torch.optim.Adam(D.parameters(), lr=2e-3, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
for step in range(800):
    real = real_data[torch.randint(0, 3000, (64,))]
    fake = G(torch.randn(64, 4)).detach()
    opt_D.zero_grad()
    loss_D = bce(D(real), torch.ones(64, 1)) + bce(D(fake), torch.zeros(64, 1))
    loss_D.backward()
    opt_D.step()
    opt_G.zero_grad()
    loss_G = bce(D(fake), torch.ones(64, 1))
    loss_G.backward()
    opt_G.step()
    if step % 200 == 0:
        print(step, loss_D.item(), loss_G.item())
with torch.no_grad():
    samples = G(torch.randn(1000, 4))
    near = ((samples - torch.tensor([2.0, -1.0])).norm(dim=1) < 1.0).float().mean().item()
print("share of samples near the data", near)
