import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(53)
d = load_digits()
ds = TensorDataset(torch.tensor(d.images / 16, dtype=torch.float32)[:, None], torch.tensor(d.target))
loader = DataLoader(ds, batch_size=32, shuffle=True)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 3, padding=1)
        self.c2 = nn.Conv2d(6, 16, 3)
        self.f1 = nn.Linear(144, 60)
        self.f2 = nn.Linear(60, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2, stride=1, padding=1)
        x = F.max_pool2d(F.relu(self.c2(x)), 2)
        return self.f2(F.relu(self.f1(x.flatten(1))))


model = LeNet()
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001)
for epoch in range(6):
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
x, y = ds.tensors
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
