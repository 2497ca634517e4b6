import torch
import torch.nn as nn

torch.manual_seed(21)
n_u, n_i = 100, 80
taste, kind = torch.randn(n_u, 3), torch.randn(n_i, 3)
clicked = (taste @ kind.T > 1.2).float()
u, i = torch.meshgrid(torch.arange(n_u), torch.arange(n_i), indexing="ij")
u, i, label = u.flatten(), i.flatten(), clicked.flatten()


class NeuMF(nn.Module):
    def __init__(self, d=16):
        super().__init__()
        self.u, self.i = nn.Embedding(n_u, d), nn.Embedding(n_i, d)
        self.mlp = nn.Sequential(nn.Linear(2 * d, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.predict = nn.Linear(16 + d, 1)

    def forward(self, u, i):
        a, b = self.u(u), self.i(i)
        h = torch.cat([a * b, self.mlp(torch.cat([a, b], 1))], 1)
        return self.predict(h).sigmoid().view(-1)


model = NeuMF()
criterion = nn.BCEWithLogitsLoss(reduction="mean")
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for epoch in range(20):
    for b in torch.randperm(len(u)).split(256):
        model.zero_grad()
        loss = criterion(model(u[b], i[b]), label[b])
        loss.backward()
        optimizer.step()
    print("epoch", epoch, "loss", loss.item())
with torch.no_grad():
    p = (torch.sigmoid(model(u, i)) > 0.5).float()
    recall = [(p[label == c] == c).float().mean().item() for c in (0, 1)]
print("metric: balanced_accuracy", sum(recall) / 2)
