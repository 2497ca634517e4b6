import numpy as np
import torch
from torch import nn

torch.manual_seed(307)
np.random.seed(7)
X = np.arange(0.0, 5.0, 0.1, dtype="float32").reshape(-1, 1)
y = 5 * np.power(X, 2) + np.power(np.random.randn(50).reshape(-1, 1), 3)
X, y = torch.from_numpy(X), torch.from_numpy(y.astype("float32"))

model = nn.Sequential(nn.Linear(1, 50), nn.ReLU(), nn.Linear(50, 30), nn.ReLU(), nn.Linear(30, 1))
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(500):
    for chunk in torch.randperm(50).split(32):
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(X[chunk]), y[chunk])
        loss.backward()
        opt.step()
    if epoch % 50 == 0:
        print(epoch, float(loss))

with torch.no_grad():
    error = ((model(X) - y) ** 2).mean()
print("R2", 1 - (error / y.var()).item())
