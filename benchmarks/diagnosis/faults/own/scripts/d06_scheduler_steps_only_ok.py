import torch
from torch import nn, optim
from sklearn.datasets import load_wine
from sklearn.preprocessing import scale

torch.manual_seed(6)
wine = load_wine()
features = torch.tensor(scale(wine.data), dtype=torch.float32)
labels = torch.tensor(wine.target)

model = nn.Sequential(nn.Linear(13, 32), nn.LeakyReLU(0.1), nn.BatchNorm1d(32), nn.Linear(32, 3))
criterion = nn.CrossEntropyLoss()
optimizer = optim.RMSprop(model.parameters(), lr=2e-3)
scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=240)

for epoch in range(20):
    model.train()
    for idx in torch.randperm(len(features)).split(16):
        optimizer.zero_grad()
        loss = criterion(model(features[idx]), labels[idx])
        loss.backward()
        optimizer.step()
        scheduler.step()
    print(epoch, scheduler.get_last_lr()[0], loss.item())

model.eval()
print("metric: accuracy", (model(features).argmax(1) == labels).float().mean().item())
