import torch
from torch import nn
from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

torch.manual_seed(7)
backbone = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
head = nn.Linear(64, 10)
model = nn.Sequential(backbone, head)
first = torch.optim.Adam(model.parameters(), lr=0.01)
for index in torch.randperm(len(x)).split(64):
    first.zero_grad()
    nn.functional.cross_entropy(model(x[index]), y[index]).backward()
    first.step()
backbone.requires_grad_(False)
optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()

for epoch in range(6):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index])
        loss.backward()
        optimizer.step()
