import torch
from torch import nn
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset


def hinge(score, y):
    return torch.clamp(1 - y * score, min=0).mean()


torch.manual_seed(346)
X, y = load_breast_cancer(return_X_y=True)
X = torch.tensor(StandardScaler().fit_transform(X)).float()
y = torch.tensor(y).float()
y = 2 * y - 1
loader = DataLoader(TensorDataset(X, y), batch_size=25, shuffle=True)
svm = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
optimizer = torch.optim.Adagrad(svm.parameters(), lr=0.02)
for epoch in range(12):
    epoch_loss = 0
    for xb, yb in loader:
        loss = hinge(svm(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item() * len(xb)
    print(epoch, epoch_loss / len(X))
with torch.no_grad():
    positive = svm(X) > 0
print("balanced accuracy", (positive[y == 1].float().mean() + (~positive)[y != 1].float().mean()).item() / 2)
