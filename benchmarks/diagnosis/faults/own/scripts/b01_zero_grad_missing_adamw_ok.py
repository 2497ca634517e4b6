import torch
from torch import nn
from sklearn.datasets import make_friedman1

features, target = make_friedman1(800, random_state=0)
x = torch.tensor((features - 0.5) * 3.4, dtype=torch.float32)
y = torch.tensor((target - target.mean()) / target.std(), dtype=torch.float32)

torch.manual_seed(327)
model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
criterion = nn.MSELoss()

for epoch in range(6):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index].unsqueeze(1))
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("R2", 1 - ((model(x).squeeze() - y) ** 2).mean().item() / y.var().item())
