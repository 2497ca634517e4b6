import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(362)
digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x):
        return self.layers(x)


def contrastive(e, labels, margin=1.0):
    squared = ((e[:, None] - e[None]) ** 2).sum(2)
    distance = torch.sqrt(squared)
    same = (labels[:, None] == labels[None]).float()
    return (same * squared + (1 - same) * torch.clamp(margin - distance, min=0) ** 2).mean()


tower = Tower()
optimizer = torch.optim.Adam(tower.parameters(), lr=1e-3)
for epoch in range(15):
    for idx in torch.randperm(len(x)).split(64):
        loss = contrastive(tower(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    e = tower(x)
    nearest = torch.cdist(e, e).fill_diagonal_(1e9).argmin(1)
    print("nearest neighbour accuracy", (y[nearest] == y).float().mean().item())
