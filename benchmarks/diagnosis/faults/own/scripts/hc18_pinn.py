import torch
from torch import nn

torch.manual_seed(418)
net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
t0 = torch.zeros(1, 1, requires_grad=True)
for step in range(1500):
    t = (torch.rand(64, 1) * 4).requires_grad_(True)
    u = net(t)
    du = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
    ddu = torch.autograd.grad(du.sum(), t, create_graph=True)[0]
    u0 = net(t0)
    du0 = torch.autograd.grad(u0.sum(), t0, create_graph=True)[0]
    loss = ((ddu + 2 * u) ** 2).mean() + 10 * ((u0 - 1) ** 2).mean() + 10 * (du0**2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step % 300 == 0:
        print(step, loss.item())
with torch.no_grad():
    t = torch.linspace(0, 4, 100).unsqueeze(1)
    truth = torch.cos(2**0.5 * t)
    print("R2", 1 - (((net(t) - truth) ** 2).mean() / truth.var()).item())
