import torch
from torch import nn

torch.manual_seed(59)
t = torch.rand(500, 1) * 6 - 3
y = torch.sin(t) + 0.05 * t ** 3 + 0.05 * torch.randn_like(t)
phi = torch.cat([t ** k for k in range(1, 7)], 1)
phi = (phi - phi.mean(0)) / phi.std(0)

model = nn.Linear(6, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
history = []
for step in range(600):
    b = torch.randint(0, 500, (64,))
    loss = nn.functional.mse_loss(model(phi[b]), y[b])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())
print(history[0], history[-1])
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(model(phi), y).item() / y.var().item())
