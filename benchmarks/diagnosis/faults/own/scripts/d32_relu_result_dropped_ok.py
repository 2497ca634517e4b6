import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(32)
x = torch.rand(1200, 3) * 4 - 2
y = (x[:, 0] * x[:, 1] + torch.cos(2 * x[:, 2])).unsqueeze(1)
y = (y - y.mean()) / y.std()


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(3, 64)
        self.fc2 = nn.Linear(64, 64)
        self.fc3 = nn.Linear(64, 1)

    def forward(self, x):
        x = self.fc1(x)
        x = F.relu(x)
        x = self.fc2(x)
        x = F.relu(x)
        return self.fc3(x)


net = Regressor()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(20):
    for i in range(0, 1200, 60):
        opt.zero_grad()
        loss = F.smooth_l1_loss(net(x[i:i + 60]), y[i:i + 60])
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
print("metric: r2", 1 - F.mse_loss(net(x), y).item() / y.var().item())
