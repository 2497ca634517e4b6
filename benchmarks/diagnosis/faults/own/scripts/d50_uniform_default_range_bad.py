import torch
import torch.nn as nn
from sklearn.datasets import load_wine

torch.manual_seed(50)
X, y = load_wine(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)


def init_weights(m):
    if type(m) == nn.Linear:
        nn.init.uniform_(m.weight)
        m.bias.data.fill_(0.01)


net = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
net.apply(init_weights)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for epoch in range(20):
    perm = torch.randperm(len(X))
    for i in range(0, len(X), 20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(X[perm[i:i + 20]]), y[perm[i:i + 20]])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
print("metric: accuracy", (net(X).argmax(1) == y).float().mean().item())
