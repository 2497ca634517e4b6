import torch
from torch import nn
from sklearn.datasets import load_breast_cancer

torch.manual_seed(2)
raw = load_breast_cancer()
x = torch.tensor(raw.data, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(raw.target, dtype=torch.float32)


def bce(p, t, eps=1e-6):
    return -(t * torch.log(p + eps) + (1 - t) * torch.log(1 - p + eps)).mean()


net = nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1), nn.Sigmoid())
optim = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.5)
for epoch in range(18):
    net.train()
    perm = torch.randperm(len(x))
    for start in range(0, len(x) - 40, 40):
        b = perm[start:start + 40]
        out = net(x[b]).squeeze(1)
        loss = bce(out, y[b])
        optim.zero_grad()
        loss.backward()
        optim.step()
    print(f"{epoch:2d} {loss.item():.4f}")

net.eval()
with torch.no_grad():
    pred = (net(x).flatten() > 0.5).float()
    rec = [(pred[y == c] == c).float().mean().item() for c in (0, 1)]
print("metric: balanced_accuracy", round(sum(rec) / 2, 4))
