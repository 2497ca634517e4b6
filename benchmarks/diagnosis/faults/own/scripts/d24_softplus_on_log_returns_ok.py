import torch
from torch import nn
from torch.utils.data import TensorDataset, DataLoader

torch.manual_seed(24)
x = torch.randn(1024, 6)
price = torch.exp(0.8 * x[:, 0] - 0.7 * x[:, 1] * x[:, 2] + 0.3 * x[:, 3] - 1.5)
target = price.log().unsqueeze(1)
loader = DataLoader(TensorDataset(x, target), 64, shuffle=True)


def build():
    layers = []
    for i, o in ((6, 64), (64, 64)):
        layers += [nn.Linear(i, o), nn.Mish()]
    layers.append(nn.Linear(64, 1))
    return nn.Sequential(*layers)


def fit(model, epochs=16):
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    huber = nn.HuberLoss()
    for epoch in range(epochs):
        for xb, yb in loader:
            opt.zero_grad()
            loss = huber(model(xb), yb)
            loss.backward()
            opt.step()
        print(epoch, loss.item())
    return model


model = fit(build())
with torch.no_grad():
    print("metric: r2", 1 - ((model(x) - target) ** 2).mean().item() / target.var().item())
