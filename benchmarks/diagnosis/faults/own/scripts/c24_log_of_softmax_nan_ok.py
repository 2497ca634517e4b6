import torch
from torch import nn
from sklearn.datasets import load_wine

torch.manual_seed(324)
X, y = load_wine(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
target = nn.functional.one_hot(torch.tensor(y)).float()


class WineNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(13, 64)
        self.fc2 = nn.Linear(64, 64)
        self.fc3 = nn.Linear(64, 3)
        nn.init.normal_(self.fc3.weight, std=3.0)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))) * 10)


def cross_entropy(output, target):
    return -(target * torch.log_softmax(output, dim=1)).sum(1).mean()


net = WineNet()
opt = torch.optim.Adam(net.parameters(), lr=0.003)
for epoch in range(30):
    for rows in torch.randperm(len(X)).split(18):
        opt.zero_grad()
        loss = cross_entropy(net(X[rows]), target[rows])
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
print("accuracy", (net(X).argmax(1) == target.argmax(1)).float().mean().item())
