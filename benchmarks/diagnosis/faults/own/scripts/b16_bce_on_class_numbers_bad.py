import torch
from torch import nn
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale

iris = load_iris()
x = torch.tensor(scale(iris.data), dtype=torch.float32)
y = torch.tensor(iris.target)

torch.manual_seed(342)
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))

optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.BCEWithLogitsLoss()

for epoch in range(12):
    for index in torch.randperm(len(x)).split(16):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index].float().unsqueeze(1))
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("accuracy", (model(x).argmax(-1) == y).float().mean().item())
