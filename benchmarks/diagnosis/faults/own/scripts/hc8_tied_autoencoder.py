import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(408)
X = torch.tensor(load_digits().data / 16, dtype=torch.float32)


class TiedAutoencoder(nn.Module):
    def __init__(self, d=64, k=16):
        super().__init__()
        self.encode = nn.Linear(d, k)
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        code = torch.relu(self.encode(x))
        return torch.sigmoid(nn.functional.linear(code, self.encode.weight.T, self.bias))


model = TiedAutoencoder()
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.003)
criterion = nn.BCELoss()
for epoch in range(20):
    for idx in torch.randperm(len(X)).split(64):
        optimizer.zero_grad()
        loss = criterion(model(X[idx]), X[idx])
        loss.backward()
        optimizer.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    print("R2", (1 - ((model(X) - X) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()).item())
