import torch
from torch import nn

torch.manual_seed(45)
n_u, n_m = 80, 60
P, Q = torch.randn(n_u, 5), torch.randn(n_m, 5)
R = P @ Q.T / 5 ** 0.5
uu = torch.randint(0, n_u, (5000,))
mm = torch.randint(0, n_m, (5000,))
rr = R[uu, mm]


class Factors(nn.Module):
    def __init__(self, d=10):
        super().__init__()
        self.user = nn.Embedding(n_u, d)
        self.movie = nn.Embedding(n_m, d)
        for e in (self.user, self.movie):
            nn.init.normal_(e.weight, std=0.3)

    def forward(self, u, m):
        return (self.user(u) * self.movie(m)).sum(-1)


model = Factors()
opt = torch.optim.Adam(model.parameters(), lr=0.02)
for epoch in range(15):
    order = torch.randperm(5000)
    for b in order.split(250):
        loss = ((model(uu[b], mm[b]) - rr[b]) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - ((model(uu, mm) - rr) ** 2).mean().item() / rr.var().item())
