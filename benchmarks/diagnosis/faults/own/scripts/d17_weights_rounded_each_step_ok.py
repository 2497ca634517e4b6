import torch
from torch import nn
from sklearn.datasets import make_classification

torch.manual_seed(17)
X, Y = make_classification(1500, 20, n_informative=8, n_redundant=2, n_classes=4, class_sep=1.3, random_state=17)
X = torch.tensor(X, dtype=torch.float32) / 2
Y = torch.tensor(Y)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


@torch.no_grad()
def to_grid(net, bits=4):
    for m in net.modules():
        if isinstance(m, nn.Linear):
            step = m.weight.abs().max() / 2 ** (bits - 1)
            m.weight.copy_((m.weight / step).round() * step)


optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(16):
    for b in torch.randperm(1500).split(75):
        loss = nn.functional.cross_entropy(model(X[b]), Y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
to_grid(model, 6)
print("metric: accuracy", (model(X).argmax(1) == Y).float().mean().item())
