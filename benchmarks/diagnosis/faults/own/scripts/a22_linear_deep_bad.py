import torch
from torch import nn
from sklearn.datasets import make_moons

points, labels = make_moons(1000, noise=0.15, random_state=1)
x = torch.tensor(points, dtype=torch.float32)
y = torch.tensor(labels)

torch.manual_seed(321)
model = nn.Sequential(nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 2))
x = x * torch.tensor([1.0, 1.0])
y = ((x[:, 0] - 0.5) * (x[:, 1] - 0.25) > 0).long()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
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
