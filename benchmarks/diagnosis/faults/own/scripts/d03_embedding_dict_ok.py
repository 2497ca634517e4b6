import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(3)
n_users, n_items, rank = 120, 90, 4
U, V = torch.randn(n_users, rank), torch.randn(n_items, rank)
users = torch.randint(0, n_users, (6000,))
items = torch.randint(0, n_items, (6000,))
ratings = (U[users] * V[items]).sum(1) / 2 + 0.1 * torch.randn(6000) + 3.0


class MF(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.tables = nn.ModuleDict({
            "user": nn.Embedding(n_users, dim),
            "item": nn.Embedding(n_items, dim),
        })
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=0.3)
        self.user_bias = nn.Embedding(n_users, 1)
        self.item_bias = nn.Embedding(n_items, 1)
        self.mean = nn.Parameter(torch.zeros(1))

    def forward(self, u, i):
        dot = (self.tables["user"](u) * self.tables["item"](i)).sum(1)
        return dot + self.user_bias(u).squeeze(1) + self.item_bias(i).squeeze(1) + self.mean


model = MF()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
loader = DataLoader(TensorDataset(users, items, ratings), batch_size=256, shuffle=True)
for epoch in range(14):
    running = 0
    for u, i, r in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(u, i), r)
        loss.backward()
        optimizer.step()
        running += loss.item()
    print("epoch", epoch, "mse", running / len(loader))

with torch.no_grad():
    r2 = 1 - ((model(users, items) - ratings) ** 2).mean() / ratings.var()
print("metric: r2", round(r2.item(), 4))
