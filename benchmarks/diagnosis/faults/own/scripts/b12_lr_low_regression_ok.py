import torch
from torch import nn
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

data = load_diabetes()
x = torch.tensor(scale(data.data), dtype=torch.float32)
y = torch.tensor(scale(data.target), dtype=torch.float32)

torch.manual_seed(338)
model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
criterion = nn.MSELoss()

for epoch in range(20):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index].unsqueeze(1))
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("R2", 1 - ((model(x).squeeze() - y) ** 2).mean().item() / y.var().item())
