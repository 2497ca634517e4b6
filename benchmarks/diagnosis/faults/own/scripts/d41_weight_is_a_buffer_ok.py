import torch
from torch import nn

torch.manual_seed(41)
n, g = 500, 6
adj = torch.rand(n, g, g) < 0.4
adj = (adj | adj.transpose(1, 2)).float()
feat = torch.randn(n, g, 4)
hidden = torch.randn(4, 1)
target = ((adj @ feat) @ hidden).relu().sum((1, 2)).unsqueeze(1)
target = (target - target.mean()) / target.std()


class GraphConv(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        w = torch.randn(i, o) / i ** 0.5
        self.weight = nn.Parameter(w)
        self.bias = nn.Parameter(torch.zeros(o))

    def forward(self, a, x):
        return torch.relu(a @ x @ self.weight + self.bias)


class GNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = GraphConv(4, 4), GraphConv(4, 3)
        self.read = nn.Linear(3, 1)

    def forward(self, a, x):
        return self.read(self.c2(a / 3, self.c1(a / 3, x)).mean(1))


net = GNN()
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
for epoch in range(30):
    for b in torch.randperm(n).split(50):
        loss = nn.functional.mse_loss(net(adj[b], feat[b]), target[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - nn.functional.mse_loss(net(adj, feat), target).item() / target.var().item())
