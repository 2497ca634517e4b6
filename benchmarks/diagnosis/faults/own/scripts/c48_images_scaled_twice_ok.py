import torch
from torch import nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(349)
images = load_digits().images / 16
labels = torch.tensor(load_digits().target)


def to_tensor(array):
    return torch.tensor(array, dtype=torch.float32).unsqueeze(1)


images = to_tensor(images)
loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 16, 3)
        self.f1, self.f2, self.f3 = nn.Linear(16 * 9, 60), nn.Linear(60, 40), nn.Linear(40, 10)

    def forward(self, x):
        x = torch.relu(self.c1(x))
        x = nn.functional.max_pool2d(torch.relu(self.c2(x)), 2).flatten(1)
        return self.f3(torch.relu(self.f2(torch.relu(self.f1(x)))))


net = LeNet()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(8):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
print("accuracy", (net(images).argmax(1) == labels).float().mean().item())
