"""A script as people write them: a plain convolutional network on real digits, which does not learn."""

import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
y = torch.tensor(labels)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        for i in range(2, 17):
            self.add_module(f"conv{i}", nn.Conv2d(32, 32, 3, padding=1))
        self.fc = nn.Linear(32 * 64, 10)

    def forward(self, x):
        for i in range(1, 17):
            x = torch.relu(getattr(self, f"conv{i}")(x))
        return self.fc(x.flatten(1))


model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for step in range(300):
    batch = torch.randint(len(x), (64,))
    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:3}  loss {loss:.3f}")
