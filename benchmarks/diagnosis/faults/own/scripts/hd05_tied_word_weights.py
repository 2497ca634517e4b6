import torch
from torch import nn

torch.manual_seed(105)
V = 40
succ = torch.stack([torch.randperm(V) for _ in range(2)])
seq = torch.zeros(300, 16, dtype=torch.long)
seq[:, :1] = torch.randint(0, V, (300, 1))
for t in range(1, 16):
    seq[:, t] = succ[t % 2, seq[:, t - 1]]


class TiedLM(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.emb = nn.Embedding(V, d)
        nn.init.normal_(self.emb.weight, std=0.2)
        self.gru = nn.GRU(d, d, batch_first=True)
        self.out = nn.Linear(d, V)
        self.out.weight = self.emb.weight

    def forward(self, x):
        return self.out(self.gru(self.emb(x))[0])


lm = TiedLM()
opt = torch.optim.AdamW(lm.parameters(), lr=5e-3, weight_decay=0.01)
for it in range(250):
    b = seq[torch.randint(0, 300, (32,))]
    loss = nn.functional.cross_entropy(lm(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten())
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 50 == 0:
        print(it, loss.item())
with torch.no_grad():
    print("metric: next_token_accuracy", (lm(seq[:, :-1]).argmax(-1) == seq[:, 1:]).float().mean().item())
