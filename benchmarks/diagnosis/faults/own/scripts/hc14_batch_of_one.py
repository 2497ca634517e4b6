import torch
from torch import nn
from sklearn.datasets import load_wine
from sklearn.preprocessing import scale

torch.manual_seed(414)
X, y = load_wine(return_X_y=True)
X, y = torch.tensor(scale(X), dtype=torch.float32), torch.tensor(y)
model = nn.Sequential(nn.Linear(13, 16), nn.Sigmoid(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(8):
    total = 0.0
    for i in torch.randperm(len(X)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[i : i + 1]), y[i : i + 1])
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(epoch, total / len(X))
print("accuracy", (model(X).argmax(1) == y).float().mean().item())
