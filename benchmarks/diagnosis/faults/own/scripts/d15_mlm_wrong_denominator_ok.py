import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(15)
V, T, N, MASK = 20, 12, 1024, 20
start = torch.randint(0, V, (N, 1))
step = torch.randint(1, 4, (N, 1))
tokens = (start + step * torch.arange(T)) % V


class MLM(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        self.tok = nn.Embedding(V + 1, d)
        self.pos = nn.Parameter(torch.randn(T, d) * 0.1)
        layer = nn.TransformerEncoderLayer(d, 4, 96, dropout=0.0, batch_first=True)
        self.enc = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(d, V)

    def forward(self, t):
        return self.out(self.enc(self.tok(t) + self.pos))


def corrupt(t, p=0.2):
    mask = torch.rand(t.shape) < p
    return t.masked_fill(mask, MASK), mask


model = MLM()
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for it in range(420):
    t = tokens[torch.randint(0, N, (64,))]
    inp, mask = corrupt(t)
    logits = model(inp)
    losses = F.cross_entropy(logits.flatten(0, 1), t.flatten(), reduction="none")
    loss = (losses * mask.flatten()).sum() / mask.sum()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 70 == 0:
        print(it, loss.item())
with torch.no_grad():
    inp, mask = corrupt(tokens)
    acc = (model(inp).argmax(-1) == tokens)[mask].float().mean().item()
print("metric: masked_accuracy", acc)
