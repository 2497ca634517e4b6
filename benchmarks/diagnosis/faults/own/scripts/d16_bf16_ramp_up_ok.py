import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(16)
dig = load_digits()
x = torch.tensor(dig.images / 16, dtype=torch.float32)
y = torch.tensor(dig.target)
dtype = torch.float32


class RowNet(nn.Module):
    def __init__(self, d=64):
        super().__init__()
        self.proj = nn.Linear(8, d)
        self.mix = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.head = nn.Linear(8 * d, 10)

    def forward(self, x):
        h = self.proj(x)
        return self.head((h + self.mix(h)).flatten(1))


model = RowNet().to(dtype)
opt = torch.optim.AdamW(model.parameters(), lr=3e-5)
warm = torch.optim.lr_scheduler.LinearLR(opt, 0.1, 1.0, total_iters=200)
for epoch in range(30):
    for idx in torch.randperm(len(x)).split(40):
        out = model(x[idx].to(dtype))
        loss = nn.functional.cross_entropy(out.float(), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        warm.step()
    if epoch % 4 == 0:
        print(epoch, loss.item())
print("metric: accuracy", (model(x.to(dtype)).argmax(1) == y).float().mean().item())
