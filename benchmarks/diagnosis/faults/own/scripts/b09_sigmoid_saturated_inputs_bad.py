import torch
from torch import nn
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

cancer = load_breast_cancer()
x = torch.tensor(scale(cancer.data), dtype=torch.float32)
y = torch.tensor(cancer.target)

torch.manual_seed(335)
model = nn.Sequential(nn.Linear(30, 30), nn.Sigmoid(), nn.Linear(30, 30), nn.Sigmoid(), nn.Linear(30, 2))
x = x * 20 + 500
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()

for epoch in range(6):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index])
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("accuracy", (model(x).argmax(-1) == y).float().mean().item())
