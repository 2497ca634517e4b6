import torch
from torch import nn
from sklearn.datasets import load_iris
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(308)
data = load_iris()
X = torch.tensor(data.data, dtype=torch.float32)
X = (X - X.mean(0)) / X.std(0)
Y = torch.tensor(data.target, dtype=torch.long)
dl = DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True)


def baseline_model():
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


model = baseline_model()
optim = torch.optim.SGD(model.parameters(), lr=0.1)
ce = nn.CrossEntropyLoss()
for epoch in range(20):
    losses = []
    for xb, yb in dl:
        optim.zero_grad()
        loss = ce(model(xb), yb)
        loss.backward()
        optim.step()
        losses.append(loss.item())
    print(epoch, sum(losses) / len(losses))
print("accuracy", (model(X).argmax(1) == Y).float().mean().item())
