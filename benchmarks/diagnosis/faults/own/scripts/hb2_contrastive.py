import torch
from torch import nn
from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

torch.manual_seed(5)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
for epoch in range(6):
    for index in torch.randperm(len(x)).split(64):
        a, b = (nn.functional.normalize(model(x[index] + 0.1 * torch.randn(len(index), 64)), dim=1) for _ in range(2))
        loss = nn.functional.cross_entropy(a @ b.T / 0.1, torch.arange(len(index)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
