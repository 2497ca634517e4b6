import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(61)
np.random.seed(61)
d = load_digits()
x = torch.tensor(d.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(d.target)


def mixup_data(x, y, alpha=0.1):
    lam = np.random.beta(alpha, alpha)
    index = torch.randperm(len(x))
    return lam * x + (1 - lam) * x[index], y, y[index], lam


def mixup_criterion(criterion, pred, y_a, y_b, lam):
    return (1 - lam) * criterion(pred, y_a) + lam * criterion(pred, y_b)


net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                    nn.Flatten(), nn.Linear(512, 10))
criterion = nn.CrossEntropyLoss()
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
for epoch in range(6):
    for b in torch.randperm(len(x)).split(64):
        xm, ya, yb, lam = mixup_data(x[b], y[b])
        loss = mixup_criterion(criterion, net(xm), ya, yb, lam)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print("metric: accuracy", (net(x).argmax(1) == y).float().mean().item())
