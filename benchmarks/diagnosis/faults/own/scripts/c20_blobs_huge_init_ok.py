import torch
from torch import nn
from sklearn.datasets import make_blobs

torch.manual_seed(320)
X, y = make_blobs(900, centers=4, n_features=8, cluster_std=2.5, random_state=2)
X, y = torch.tensor(X).float() / 5, torch.tensor(y)


class DeepNet(nn.Module):
    def __init__(self, depth=10):
        super().__init__()
        self.first = nn.Linear(8, 32)
        self.hidden = nn.ModuleList([nn.Linear(32, 32) for _ in range(depth)])
        self.out = nn.Linear(32, 4)
        for layer in self.hidden:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def forward(self, x):
        x = torch.relu(self.first(x))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


net = DeepNet()
optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
for epoch in range(15):
    total, correct = 0.0, 0
    for index in torch.randperm(len(X)).split(30):
        logits = net(X[index])
        loss = nn.functional.cross_entropy(logits, y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        correct += (logits.argmax(1) == y[index]).sum().item()
    print(f"epoch {epoch}: loss {total / 30:.4f}, accuracy {correct / len(X):.3f}")
