import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(27)
digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(digits.target)
by_class = [torch.where(y == c)[0] for c in range(10)]


def triplets(n):
    a = torch.randint(0, 10, (n,))
    b = (a + torch.randint(1, 10, (n,))) % 10
    draw = lambda cls: torch.stack([by_class[c][torch.randint(len(by_class[c]), (1,))[0]] for c in cls])
    return x[draw(a)], x[draw(a)], x[draw(b)]


embed = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 16))
criterion = nn.TripletMarginLoss(margin=1.0)
optimizer = torch.optim.Adam(embed.parameters(), lr=1e-3)
for it in range(200):
    anchor, positive, negative = triplets(48)
    loss = criterion(embed(anchor), embed(negative), embed(positive))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if it % 40 == 0:
        print(it, loss.item())
with torch.no_grad():
    z = embed(x)
    d = torch.cdist(z, z) + torch.eye(len(z)) * 1e9
    acc = (y[d.argmin(1)] == y).float().mean()
print("metric: nearest_neighbour_accuracy", acc.item())
