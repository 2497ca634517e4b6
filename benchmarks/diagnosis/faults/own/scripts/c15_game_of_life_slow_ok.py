import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
torch.manual_seed(315)


def update(field):
    neighbours = sum(
        np.roll(np.roll(field, dx, 1), dy, 2) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy
    )
    return (neighbours == 3) | ((field == 1) & (neighbours == 2))


def dataset(n, size=6):
    field = (rng.random((n, size, size)) < 0.4).astype(int)
    to = lambda a: torch.tensor(np.asarray(a), dtype=torch.float32).unsqueeze(1)
    return to(field), to(update(field))


class LifeNet(nn.Module):
    def __init__(self, filters=16, channels=16):
        super().__init__()
        self.conv1 = nn.Conv2d(1, filters, 3, padding=1, padding_mode="circular")
        self.conv2 = nn.Conv2d(filters, channels, 1)
        self.conv3 = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        return torch.sigmoid(self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x))))))


X, Y = dataset(2000)
X_val, Y_val = dataset(300)
net = LifeNet()
adam = torch.optim.Adam(net.parameters(), lr=0.01)
for epoch in range(8):
    for i in range(0, len(X), 50):
        adam.zero_grad()
        loss = nn.functional.binary_cross_entropy(net(X[i : i + 50]), Y[i : i + 50])
        loss.backward()
        adam.step()
    with torch.no_grad():
        alive = net(X_val)[Y_val == 1] > 0.5
    print("loss", loss.item(), "recall of living cells", alive.float().mean().item())
