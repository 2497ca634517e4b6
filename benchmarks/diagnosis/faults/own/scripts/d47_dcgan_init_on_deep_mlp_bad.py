import torch
import torch.nn as nn
from sklearn.datasets import make_friedman1

torch.manual_seed(47)
X, y = make_friedman1(1000, 8, noise=0.3, random_state=47)
X = torch.tensor(X, dtype=torch.float32) * 3.46 - 1.73
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)[:, None]


def weights_init(m):
    if m.__class__.__name__.find("Linear") != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.02)
        nn.init.constant_(m.bias.data, 0)


layers = [nn.Linear(8, 48), nn.LeakyReLU(0.2)]
for _ in range(9):
    layers += [nn.Linear(48, 48), nn.LeakyReLU(0.2)]
net = nn.Sequential(*layers, nn.Linear(48, 1))
net.apply(weights_init)
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for epoch in range(20):
    for b in torch.randperm(1000).split(50):
        loss = nn.functional.mse_loss(net(X[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(net(X), y).item() / y.var().item())
