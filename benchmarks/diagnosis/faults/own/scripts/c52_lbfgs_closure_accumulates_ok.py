import torch
from torch import nn

torch.manual_seed(353)
x = torch.linspace(-3, 3, 200).unsqueeze(1)
y = torch.sin(2 * x) + 0.1 * x**2
net = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
optimizer = torch.optim.LBFGS(net.parameters(), lr=0.2, max_iter=4)


def closure():
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(net(x), y)
    loss.backward()
    return loss


for step in range(150):
    loss = optimizer.step(closure)
    if step % 30 == 0:
        print(step, loss.item())
with torch.no_grad():
    print("R2", 1 - (nn.functional.mse_loss(net(x), y) / y.var()).item())
