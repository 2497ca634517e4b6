import torch
from torch import nn

torch.manual_seed(305)
X = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
y = torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0], [0.0]])


def build():
    model = nn.Sequential(
        nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 1), nn.Sigmoid()
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -0.05, 0.05)
            nn.init.zeros_(layer.bias)
    return model


model = build()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
loss_fn = nn.MSELoss()
for epoch in range(600):
    optimizer.zero_grad()
    loss = loss_fn(model(X), y)
    loss.backward()
    optimizer.step()
    if epoch % 100 == 0:
        print(f"{epoch}: {loss.item():.5f}")
with torch.no_grad():
    print("R2", 1 - (loss_fn(model(X), y) / y.var(unbiased=False)).item())
