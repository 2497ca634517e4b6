import torch
from torch import nn

torch.manual_seed(104)


def adding(n, T=12):
    v = torch.rand(n, T)
    m = torch.zeros(n, T)
    idx = torch.rand(n, T).argsort(1)[:, :2]
    m.scatter_(1, idx, 1.0)
    return torch.stack([v, m], 2), (v * m).sum(1, keepdim=True)


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 48, batch_first=True)
        self.fc = nn.Linear(48, 1)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


model = Adder()
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
for it in range(500):
    x, y = adding(64)
    loss = nn.functional.mse_loss(model(x), y)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    opt.step()
    if it % 100 == 0:
        print(it, loss.item())
x, y = adding(1000)
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(model(x), y).item() / y.var().item())
