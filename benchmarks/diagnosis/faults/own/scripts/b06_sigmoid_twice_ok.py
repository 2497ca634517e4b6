import torch
from torch import nn
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

cancer = load_breast_cancer()
x = torch.tensor(scale(cancer.data), dtype=torch.float32)
y = torch.tensor(cancer.target)

torch.manual_seed(332)
model = nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 1))
y = y.float()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.BCEWithLogitsLoss()

for epoch in range(6):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index].unsqueeze(1))
        loss.backward()
        optimizer.step()
