import torch
from torch import nn
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale


def create_model(hidden):
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


torch.manual_seed(350)
X, y = load_iris(return_X_y=True)
X, y = torch.tensor(scale(X), dtype=torch.float32), torch.tensor(y)
model = create_model(16)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
loss_fn = nn.CrossEntropyLoss()
model = create_model(32)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for epoch in range(12):
    for b in torch.randperm(150).split(15):
        model.zero_grad()
        loss = loss_fn(model(X[b]), y[b])
        loss.backward()
        optimizer.step()
    print("epoch", epoch, "loss", loss.item())
print("accuracy", (model(X).argmax(1) == y).float().mean().item())
