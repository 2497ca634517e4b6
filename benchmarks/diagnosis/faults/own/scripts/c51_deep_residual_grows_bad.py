import torch
from torch import nn

torch.manual_seed(352)
x = torch.randn(800, 10)
y = torch.tanh(x[:, :1] * x[:, 1:2]) + 0.5 * x[:, 2:3]


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + 6 * self.fc2(torch.relu(self.fc1(x)))


model = nn.Sequential(nn.Linear(10, 32), *[Block(32) for _ in range(12)], nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
for epoch in range(20):
    for idx in torch.randperm(800).split(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("R2", 1 - (nn.functional.mse_loss(model(x), y) / y.var()).item())
