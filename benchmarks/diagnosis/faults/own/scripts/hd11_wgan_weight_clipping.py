import torch
from torch import nn

torch.manual_seed(111)
G = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
C = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
og = torch.optim.RMSprop(G.parameters(), lr=2e-3)
oc = torch.optim.RMSprop(C.parameters(), lr=2e-3)
for it in range(350):
    for _ in range(3):
        real = 2.0 + 0.5 * torch.randn(96, 1)
        fake = G(torch.randn(96, 2)).detach()
        loss_c = C(fake).mean() - C(real).mean()
        oc.zero_grad()
        loss_c.backward()
        oc.step()
        with torch.no_grad():
            for p in C.parameters():
                p.clamp_(-0.2, 0.2)
    loss_g = -C(G(torch.randn(96, 2))).mean()
    og.zero_grad()
    loss_g.backward()
    og.step()
    if it % 70 == 0:
        print(it, loss_c.item(), loss_g.item())
with torch.no_grad():
    s = G(torch.randn(4000, 2)).squeeze(1).sort().values
    q = (2.0 + 0.5 * torch.randn(4000)).sort().values
print("metric: wasserstein_distance", (s - q).abs().mean().item())
