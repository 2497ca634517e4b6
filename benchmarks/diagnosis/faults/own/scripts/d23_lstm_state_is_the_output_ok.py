import torch
import torch.nn as nn

torch.manual_seed(23)
t = torch.arange(1200) * 0.1
series = 6 * torch.sin(t) + 3 * torch.sin(0.37 * t) + 4 + 0.2 * torch.randn(1200)
windows = series.unfold(0, 21, 1)
x, y = windows[:, :20, None], windows[:, 20:]


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm1 = nn.LSTM(1, 32, batch_first=True)
        self.last = nn.Linear(32, 1)

    def forward(self, x):
        h, _ = self.lstm1(x / 5)
        return self.last(h[:, -1])


model = Forecaster()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(14):
    for b in torch.randperm(len(x)).split(64):
        loss = nn.functional.mse_loss(model(x[b]), y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    r2 = 1 - (model(x) - y).pow(2).mean() / y.var()
print("metric: r2", r2.item())
