import torch
from torch import nn
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

torch.manual_seed(339)
wine = load_wine()
X = torch.tensor(StandardScaler().fit_transform(wine.data), dtype=torch.float32)
y = torch.tensor(wine.target)


class NormNet(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.fc1 = nn.Linear(13, width)
        self.norm = nn.GroupNorm(num_groups=width, num_channels=width)
        self.fc2 = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


model = NormNet()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(12):
    for idx in torch.randperm(len(X)).split(16):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X[idx]), y[idx])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
print("accuracy", (model(X).argmax(1) == y).float().mean().item())
