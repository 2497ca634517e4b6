import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(356)
digits = load_digits()
x, y = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 6, batch_first=True)

    def forward(self, rows):
        return self.rnn(rows)[0]


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 10)

    def forward(self, features):
        return self.fc(features)


trunk, head = Trunk(), Head()
optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=0.01)
for epoch in range(15):
    for idx in torch.randperm(len(x)).split(50):
        features = trunk(x[idx])
        pooled = torch.from_numpy(np.mean(features.detach().numpy(), axis=1))
        loss = nn.functional.cross_entropy(head(pooled), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("accuracy", (head(trunk(x).mean(1)).argmax(1) == y).float().mean().item())
