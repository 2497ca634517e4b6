import torch
from torch import nn
from sklearn.datasets import load_diabetes

torch.manual_seed(68)
x, y = load_diabetes(return_X_y=True)
x = torch.tensor(x / x.std(0), dtype=torch.float32)
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32).view(-1, 1)


class Net(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.out = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.out(self.body(x))


model = Net()
criterion = nn.MSELoss(reduction="mean")
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=1e-4)
for epoch in range(40):
    perm = torch.randperm(len(x))
    for i in range(0, len(x), 64):
        optimizer.zero_grad()
        loss = criterion(model(x[perm[i:i + 64]]), y[perm[i:i + 64]])
        loss.backward()
        optimizer.step()
    if epoch % 10 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - ((model(x) - y) ** 2).mean().item() / y.var().item())
