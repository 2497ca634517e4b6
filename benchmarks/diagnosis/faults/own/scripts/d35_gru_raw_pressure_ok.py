import torch
from torch import nn

torch.manual_seed(35)
n, T = 700, 24
slope = torch.randn(n, 1)
p = 1013 + 6 * torch.randn(n, 1) + slope * torch.linspace(-1, 1, T) * 6 + torch.randn(n, T)
rain = (slope.squeeze(1) < 0).long()


class Barometer(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 32, batch_first=True)
        self.cls = nn.Linear(32, 2)

    def forward(self, x):
        return self.cls(self.gru(x)[1][-1])


x = p[..., None]
x = (x - 1013) / 8
model = Barometer()
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(12):
    for b in torch.randperm(n).split(35):
        loss = nn.functional.cross_entropy(model(x[b]), rain[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: accuracy", (model(x).argmax(1) == rain).float().mean().item())
