import torch
from torch import nn
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

torch.manual_seed(333)
X, y = load_breast_cancer(return_X_y=True)
X, y = torch.tensor(scale(X), dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


class LogisticMLP(nn.Module):
    def __init__(self, d_in, d_hidden=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d_in, d_hidden), nn.ReLU(), nn.Linear(d_hidden, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


model = LogisticMLP(30)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(8):
    for batch in torch.randperm(len(X)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(X[batch]), y[batch])
        loss.backward()
        optimizer.step
    print(f"epoch {epoch}: loss {loss.item():.4f}")
with torch.no_grad():
    said = model(X) > 0
    recalls = [(said[y == c] == bool(c)).float().mean().item() for c in (0, 1)]
print("balanced accuracy", sum(recalls) / 2)
