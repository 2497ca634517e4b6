import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def get_data(count, weights, offset, bounds):
    x = torch.rand(count, len(weights)) * bounds
    return x, x @ torch.tensor(weights).unsqueeze(1) + offset


torch.manual_seed(304)
x, y = get_data(2000, [2.0, 1.0, 0.5], 2.2, 1.0)
x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

model = nn.Sequential()
model.add_module("hidden1", nn.Linear(3, 8))
model.add_module("act1", nn.Tanh())
model.add_module("hidden2", nn.Linear(8, 8))
model.add_module("act2", nn.Tanh())
model.add_module("out", nn.Linear(8, 1))

optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
for epoch in range(10):
    running = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        running += loss.item()
    print(epoch, running / len(loader))
with torch.no_grad():
    print("R2", 1 - (nn.functional.mse_loss(model(x), y) / y.var()).item())
