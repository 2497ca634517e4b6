import torch
from torch import nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(338)
digits = load_digits()
x, y = torch.tensor(digits.images * 16).float().unsqueeze(1), torch.tensor(digits.target)
train_dl = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=50, shuffle=True)
valid_dl = DataLoader(TensorDataset(x[1400:], y[1400:]), batch_size=100)

model = nn.Sequential(
    nn.BatchNorm2d(1), nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def validate():
    model.eval()
    with torch.no_grad():
        return sum((model(a).argmax(1) == b).sum().item() for a, b in valid_dl) / len(valid_dl.dataset)


print("before training", validate())
for epoch in range(6):
    model.train()
    for xb, yb in train_dl:
        loss = nn.functional.cross_entropy(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} valid accuracy {validate():.3f}")
