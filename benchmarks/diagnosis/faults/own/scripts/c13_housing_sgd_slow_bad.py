import torch
from torch import nn

torch.manual_seed(313)
rooms = torch.randn(600, 6)
price = rooms[:, :2].prod(1, keepdim=True) + rooms[:, 2:3] - 0.5 * rooms[:, 3:4] ** 2
model = nn.Sequential(nn.Linear(6, 48), nn.ELU(), nn.Linear(48, 24), nn.ELU(), nn.Linear(24, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
loss_fn = nn.HuberLoss()

step = 0
while step < 800:
    for batch in torch.randperm(600).split(50):
        loss = loss_fn(model(rooms[batch]), price[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    if step % 120 == 0:
        print(step, loss.item())

with torch.no_grad():
    residual = price - model(rooms)
    print("R2", (1 - residual.var() / price.var()).item())
