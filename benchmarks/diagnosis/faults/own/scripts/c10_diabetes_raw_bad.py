import torch
from torch import nn
from sklearn.datasets import load_diabetes
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(310)
features, target = load_diabetes(return_X_y=True)
x = torch.as_tensor(features, dtype=torch.float32)
y = torch.as_tensor(target, dtype=torch.float32).reshape(-1, 1)
train_loader = DataLoader(TensorDataset(x[:350], y[:350]), batch_size=16, shuffle=True)

model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = nn.MSELoss()


def r2(inputs, targets):
    with torch.no_grad():
        return 1 - (criterion(model(inputs), targets) / targets.var()).item()


for epoch in range(20):
    for xb, yb in train_loader:
        loss = criterion(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch:2d} train R2 {r2(x[:350], y[:350]):.3f}")
print("test R2", r2(x[350:], y[350:]))
