import torch
from torch import nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(102)
d = load_digits()
x = torch.tensor(d.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(d.target)


def view(v):
    r, c = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(v, (r, c), (2, 3)) + 0.1 * torch.randn_like(v)


enc = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64))
proj = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))
opt = torch.optim.Adam([*enc.parameters(), *proj.parameters()], lr=2e-3)
for it in range(250):
    b = x[torch.randint(0, len(x), (96,))]
    z = F.normalize(proj(enc(torch.cat([view(b), view(b)]))), dim=1)
    sim = z @ z.T / 0.3
    sim = sim.masked_fill(torch.eye(192, dtype=torch.bool), -1e9)
    target = torch.cat([torch.arange(96, 192), torch.arange(96)])
    loss = F.cross_entropy(sim, target)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 50 == 0:
        print(it, loss.item())
enc.eval()
with torch.no_grad():
    z = F.normalize(enc(x), dim=1)
    s = z @ z.T - 2 * torch.eye(len(z))
print("metric: nearest_neighbour_accuracy", (y[s.argmax(1)] == y).float().mean().item())
