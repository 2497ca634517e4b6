import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(52)
d = load_digits()
x = torch.tensor(d.images / 16, dtype=torch.float32)[:, None]
y = torch.tensor(d.target)


class ReLU6(nn.Module):
    def forward(self, x):
        return torch.relu(x.clamp(max=0))


class SmallMobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), ReLU6())
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Sequential(nn.Conv2d(16, 32, 1), ReLU6())
        self.fc = nn.Linear(32 * 4, 10)

    def forward(self, x):
        h = self.point(self.depth(self.stem(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(h, 2).flatten(1))


model = SmallMobile()
opt = torch.optim.RMSprop(model.parameters(), lr=2e-3)
for epoch in range(6):
    for b in torch.randperm(len(x)).split(45):
        loss = nn.functional.cross_entropy(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
