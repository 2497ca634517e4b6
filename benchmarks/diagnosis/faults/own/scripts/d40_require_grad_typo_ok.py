import torch
from torch import nn
from sklearn.datasets import make_circles

torch.manual_seed(40)
X, Y = make_circles(800, noise=0.08, factor=0.6, random_state=40)
X = torch.tensor(X, dtype=torch.float32)
Y = torch.tensor(Y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
        self.head = nn.Linear(4, 2)
        self.freeze()

    def freeze(self):
        for p in self.trunk.parameters():
            p.requires_grad = False

    def unfreeze(self):
        for p in self.trunk.parameters():
            p.requires_grad = True

    def forward(self, x):
        return self.head(self.trunk(x))


net = Net()
net.unfreeze()
opt = torch.optim.Adam(net.parameters(), lr=0.02)
for epoch in range(20):
    for b in torch.randperm(800).split(50):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X[b]), Y[b])
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print("metric: accuracy", (net(X).argmax(1) == Y).float().mean().item())
