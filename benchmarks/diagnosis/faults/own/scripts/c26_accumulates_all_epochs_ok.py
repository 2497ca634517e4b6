import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(326)
digits = load_digits()
rows = torch.tensor(digits.images / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)


class RowGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 32, batch_first=True)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        out, _ = self.gru(x)
        return self.fc(out[:, -1])


model = RowGRU()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for epoch in range(10):
    for batch in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        loss = criterion(model(rows[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(rows[1500:]).argmax(1) == labels[1500:]).float().mean()
    print("epoch", epoch, "loss", loss.item(), "test accuracy", accuracy.item())
