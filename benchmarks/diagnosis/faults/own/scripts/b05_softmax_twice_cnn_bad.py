import torch
from torch import nn
from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

torch.manual_seed(331)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.fc = nn.Linear(576, 10)

    def forward(self, x):
        x = self.fc(torch.relu(self.conv(x)).flatten(1))
        return torch.softmax(x, 1)


model = Net()
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.0005)
criterion = nn.CrossEntropyLoss()

for epoch in range(6):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index])
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("accuracy", (model(x).argmax(-1) == y).float().mean().item())
