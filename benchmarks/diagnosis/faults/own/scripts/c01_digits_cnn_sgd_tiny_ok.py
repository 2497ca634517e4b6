import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(301)
images, labels = load_digits(return_X_y=True)
images = torch.from_numpy((images / 16.0).astype(np.float32)).view(-1, 1, 8, 8)
labels = torch.from_numpy(labels).long()
train = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True)


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.drop = nn.Dropout(0.25)
        self.fc1 = nn.Linear(32 * 3 * 3, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.drop(x).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


net = ConvNet()
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
for epoch in range(12):
    net.train()
    for xb, yb in train:
        sgd.zero_grad()
        loss = F.cross_entropy(net(xb), yb)
        loss.backward()
        sgd.step()
    net.eval()
    with torch.no_grad():
        correct = (net(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
    print(f"epoch {epoch} loss {loss.item():.4f} test accuracy {correct:.3f}")
