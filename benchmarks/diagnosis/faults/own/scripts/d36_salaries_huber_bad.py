import torch
from torch import nn

torch.manual_seed(36)
n = 1000
years = torch.rand(n) * 30
level = torch.randint(0, 5, (n,))
salary = 28000 + 1500 * years + 9000 * level + 1500 * torch.randn(n)
x = torch.cat([(years[:, None] - 15) / 8.7, torch.nn.functional.one_hot(level, 5).float()], 1)
y = salary[:, None]


def train(model, opt, sched, epochs):
    crit = nn.HuberLoss()
    for e in range(epochs):
        for b in torch.randperm(n).split(40):
            opt.zero_grad()
            loss = crit(model(x[b]), y[b])
            loss.backward()
            opt.step()
        sched.step()
        print(e, loss.item())


model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
train(model, opt, torch.optim.lr_scheduler.StepLR(opt, 6, 0.5), 14)
with torch.no_grad():
    print("metric: r2", 1 - ((model(x) - y) ** 2).mean().item() / y.var().item())
