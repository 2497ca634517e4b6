import torch
from torch import nn

torch.manual_seed(412)
x = torch.rand(1000, 5)
y = (4 * x[:, 0] * x[:, 1] + 3 * x[:, 2] + 0.5).unsqueeze(1)


class Demand(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 40)
        self.b = nn.Linear(40, 40)
        self.c = nn.Linear(40, 1)
        nn.init.ones_(self.c.bias)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return torch.relu(self.c(x))


model = Demand()
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for epoch in range(15):
    for idx in torch.randperm(1000).split(25):
        loss = nn.functional.smooth_l1_loss(model(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("R2", 1 - (((model(x) - y) ** 2).mean() / y.var()).item())
