import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(5)
d = load_digits()
x = torch.tensor(d.images, dtype=torch.float32)[:, None] / 8 - 1
y = torch.tensor(d.target)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc1 = nn.Linear(8, 24)
        self.fc2 = nn.Linear(24, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(x)).amax((2, 3))
        return self.fc2(F.relu(self.fc1(x)))


def he_init(module):
    for m in module.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            fan = m.weight[0].numel()
            w = torch.randn(m.weight.shape) * (2 / fan) ** 0.5
            m.weight.data.copy_(w)


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
net.apply(he_init)
for epoch in range(12):
    for i in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[i]), y[i])
        loss.backward()
        optimizer.step()
    print(epoch, round(loss.item(), 4))
print("metric: accuracy", (net(x).argmax(1) == y).float().mean().item())
