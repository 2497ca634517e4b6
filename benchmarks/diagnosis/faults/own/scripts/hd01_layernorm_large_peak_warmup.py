import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(101)
d = load_digits()
x = torch.tensor(d.data / 16, dtype=torch.float32)
y = torch.tensor(d.target)


class Block(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, w), nn.GELU(), nn.Linear(w, w))

    def forward(self, x):
        return x + self.f(x)


model = nn.Sequential(nn.Linear(64, 48), *[Block(48) for _ in range(4)], nn.LayerNorm(48), nn.Linear(48, 10))
opt = torch.optim.SGD(model.parameters(), lr=0.5)
total = 8 * 36
sched = torch.optim.lr_scheduler.SequentialLR(opt, [
    torch.optim.lr_scheduler.LinearLR(opt, 0.01, 1.0, 40), torch.optim.lr_scheduler.CosineAnnealingLR(opt, total - 40)], [40])
for epoch in range(8):
    for b in torch.randperm(len(x)).split(50):
        loss = nn.functional.cross_entropy(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    print(epoch, loss.item())
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
