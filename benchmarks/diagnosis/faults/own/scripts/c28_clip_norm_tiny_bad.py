import torch
from torch import nn

torch.manual_seed(328)
t = torch.arange(0, 120, 0.1)
wave = torch.sin(t) + 0.5 * torch.sin(2.3 * t)
windows = wave.unfold(0, 21, 1)
x, y = windows[:, :20].unsqueeze(2), windows[:, 20:]


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 32, batch_first=True)
        self.linear = nn.Linear(32, 1)

    def forward(self, x):
        hidden, _ = self.lstm(x)
        return self.linear(hidden[:, -1])


model = Forecaster()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loss_fn = nn.MSELoss()
max_norm = 1e-4
for epoch in range(12):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = loss_fn(model(x[index]), y[index])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("R2", 1 - (loss_fn(model(x), y) / y.var()).item())
