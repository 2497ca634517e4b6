import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(106)
d = load_digits()
x = torch.tensor(d.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(d.target)
parity = y % 2

trunk = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                      nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten())


def fit(model, params, target, epochs, lr):
    opt = torch.optim.SGD(params, lr=lr, momentum=0.9)
    for epoch in range(epochs):
        for b in torch.randperm(len(x)).split(40):
            loss = nn.functional.cross_entropy(model(x[b]), target[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(epoch, loss.item())


old = nn.Sequential(trunk, nn.Linear(512, 10))
fit(old, old.parameters(), y, 3, 0.02)
for p in trunk.parameters():
    p.requires_grad_(False)
trunk.eval()
head = nn.Linear(512, 2)
new = nn.Sequential(trunk, head)
fit(new, head.parameters(), parity, 4, 0.05)
print("metric: accuracy", (new(x).argmax(1) == parity).float().mean().item())
