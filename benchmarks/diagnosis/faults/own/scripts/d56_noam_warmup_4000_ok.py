import torch
from torch import nn

torch.manual_seed(56)
V, T = 12, 8


def batch(n):
    x = torch.randint(0, V, (n, T))
    return x, x.sort(1).values


class Sorter(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.d = d
        self.emb = nn.Embedding(V, d)
        self.pos = nn.Parameter(torch.randn(T, d))
        layer = nn.TransformerEncoderLayer(d, 4, 128, dropout=0.0, batch_first=True)
        self.enc = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(d, V)

    def forward(self, x):
        return self.out(self.enc(self.emb(x) + self.pos))


model = Sorter()
warmup = 60
opt = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
noam = lambda s: 0.3 * model.d ** -0.5 * min((s + 1) ** -0.5, (s + 1) * warmup ** -1.5)
sched = torch.optim.lr_scheduler.LambdaLR(opt, noam)
for it in range(350):
    x, y = batch(48)
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
    if it % 70 == 0:
        print(it, loss.item())
x, y = batch(500)
with torch.no_grad():
    print("metric: token_accuracy", (model(x).argmax(-1) == y).float().mean().item())
