import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(11)
images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
target = torch.tensor(load_digits().target)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = nn.Conv2d(c, c, 3, padding=1)
        self.b = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.b(F.relu(self.a(x))))


net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), Block(12), nn.MaxPool2d(2), Block(12),
                    nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))
loader = DataLoader(TensorDataset(images, target), batch_size=32, shuffle=True)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.8, nesterov=True)
for epoch in range(5):
    optimizer.zero_grad()
    total = 0.0
    for xb, yb in loader:
        loss = F.cross_entropy(net(xb), yb)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(epoch, total / len(loader))
with torch.no_grad():
    print("metric: accuracy", (net(images).argmax(1) == target).float().mean().item())
