import torch
from torch import nn
from sklearn.datasets import make_moons

torch.manual_seed(321)
X, y = make_moons(800, noise=0.1, random_state=4)
X, y = torch.tensor(X, dtype=torch.float32), torch.tensor(y)

model = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2))


def weights_init(m):
    if isinstance(m, nn.Linear):
        nn.init.kaiming_uniform_(m.weight, nonlinearity="relu")
        nn.init.constant_(m.bias, -8.0)


model.apply(weights_init)
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
criterion = nn.CrossEntropyLoss()
for epoch in range(15):
    for b in torch.randperm(800).split(25):
        optimizer.zero_grad()
        loss = criterion(model(X[b]), y[b])
        loss.backward()
        optimizer.step()
    acc = (model(X).argmax(1) == y).float().mean().item()
    print(f"{epoch} {loss.item():.4f} accuracy {acc:.3f}")
