import torch
from torch import nn

torch.manual_seed(359)
n, classes = 240, 4
group = torch.arange(n) % classes
same = group[:, None] == group[None]
adjacency = (torch.rand(n, n) < torch.where(same, 0.15, 0.01)).float()
adjacency = ((adjacency + adjacency.T) > 0).float() + torch.eye(n)
degree = adjacency.sum(1)
adjacency = adjacency / torch.sqrt(degree[:, None] * degree[None])
features = nn.functional.one_hot(group, classes).float() + 1.0 * torch.randn(n, classes)
train = torch.rand(n) < 0.5


class GCN(nn.Module):
    def __init__(self, hidden=16, layers=4):
        super().__init__()
        self.weights = nn.ModuleList([nn.Linear(classes, hidden), *[nn.Linear(hidden, hidden) for _ in range(layers - 2)]])
        self.out = nn.Linear(hidden, classes)

    def forward(self, x, a):
        for linear in self.weights:
            x = torch.relu(a @ linear(x))
        return self.out(a @ x)


model = GCN()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(200):
    optimizer.zero_grad()
    logits = model(features, adjacency)
    loss = nn.functional.cross_entropy(logits[train], group[train])
    loss.backward()
    optimizer.step()
    if epoch % 30 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    print("accuracy", (model(features, adjacency).argmax(1) == group)[~train].float().mean().item())
