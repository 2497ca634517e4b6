import argparse
import torch
from torch import nn
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.02)
parser.add_argument("--clip", type=float, default=1.0)
args = parser.parse_args([])

torch.manual_seed(70)
d = load_digits()
x = torch.tensor(d.images / 16, dtype=torch.float32)
y = torch.tensor(d.target)


class Attention(nn.Module):
    def __init__(self, w=40):
        super().__init__()
        self.lift = nn.Linear(8, w)
        self.att = nn.MultiheadAttention(w, 4, batch_first=True)
        self.out = nn.Sequential(nn.Flatten(), nn.Linear(8 * w, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        h = torch.tanh(self.lift(x))
        return self.out(h + self.att(h, h, h, need_weights=False)[0])


model = Attention()
opt = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
for epoch in range(7):
    for b in torch.randperm(len(x)).split(48):
        loss = nn.functional.cross_entropy(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.lr)
        opt.step()
    print(epoch, loss.item())
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
