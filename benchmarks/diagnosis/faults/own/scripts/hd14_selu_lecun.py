import torch
from torch import nn
from sklearn.datasets import load_wine

torch.manual_seed(114)
X, y = load_wine(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
layers, w = [], 13
for _ in range(8):
    layers += [nn.Linear(w, 40), nn.SELU(), nn.AlphaDropout(0.05)]
    w = 40
net = nn.Sequential(*layers, nn.Linear(40, 3))
for m in net:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=m.in_features ** -0.5)
        nn.init.zeros_(m.bias)
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for epoch in range(20):
    net.train()
    for b in torch.randperm(len(X)).split(20):
        loss = nn.functional.cross_entropy(net(X[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
net.eval()
print("metric: accuracy", (net(X).argmax(1) == y).float().mean().item())
