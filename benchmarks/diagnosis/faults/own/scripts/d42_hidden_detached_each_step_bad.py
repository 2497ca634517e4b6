import torch
from torch import nn

torch.manual_seed(42)
T = 12


def batch(n):
    x = torch.randint(0, 4, (n, T))
    return x, x[:, 0]


class Recall(nn.Module):
    def __init__(self, h=48):
        super().__init__()
        self.h = h
        self.emb = nn.Embedding(4, 16)
        self.cell = nn.GRUCell(16, h)
        self.out = nn.Linear(h, 4)

    def forward(self, x):
        h = torch.zeros(len(x), self.h)
        for t in range(x.shape[1]):
            h = self.cell(self.emb(x[:, t]), h.detach())
        return self.out(h)


model = Recall()
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
for it in range(450):
    x, y = batch(64)
    loss = nn.functional.cross_entropy(model(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 90 == 0:
        print(it, loss.item())
x, y = batch(1000)
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
