import torch
from torch import nn
from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

torch.manual_seed(308)
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
for layer in model[:-1]:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.12)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
criterion = nn.CrossEntropyLoss()

for epoch in range(8):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index])
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("accuracy", (model(x).argmax(-1) == y).float().mean().item())
