import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(340)


class Series(Dataset):
    def __init__(self, length=900, window=16):
        t = torch.arange(length, dtype=torch.float32)
        self.values = torch.sin(t / 5) + torch.cos(t / 11) * 0.7 + 0.05 * torch.randn(length)
        self.window = window

    def __len__(self):
        return len(self.values) - self.window

    def __getitem__(self, i):
        return self.values[i : i + self.window].unsqueeze(-1), self.values[i + self.window]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(input_size=1, hidden_size=24, num_layers=1, batch_first=True)
        self.fc = nn.Linear(24, 1)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.fc(out[:, -1, :])


dataset = Series()
loader = DataLoader(dataset, batch_size=32, shuffle=True)
model, criterion = Model(), nn.L1Loss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(6):
    for inputs, target in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), target)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    inputs, target = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    print("R2", 1 - (((model(inputs).flatten() - target) ** 2).mean() / target.var()).item())
