import torch
from torch import nn
from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

torch.manual_seed(326)
model = nn.Sequential(*[m for c in (1, 16, 16, 16, 16, 16) for m in (nn.Conv2d(c, 16, 3, padding=1), nn.ReLU())], nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
for layer in model:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, std=0.1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
criterion = nn.CrossEntropyLoss()

for epoch in range(4):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index])
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("accuracy", (model(x).argmax(-1) == y).float().mean().item())
