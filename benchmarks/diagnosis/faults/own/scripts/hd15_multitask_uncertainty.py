import torch
from torch import nn

torch.manual_seed(115)
x = torch.randn(1200, 8)
value = (x[:, 0] * x[:, 1] + x[:, 2]).unsqueeze(1)
cls = (x[:, 3] + x[:, 4] ** 2 > 1).long()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.reg, self.cls = nn.Linear(64, 1), nn.Linear(64, 2)
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        h = self.trunk(x)
        return self.reg(h), self.cls(h)


model = Two()
opt = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20 * 24)
for epoch in range(20):
    for b in torch.randperm(1200).split(50):
        r, c = model(x[b])
        a = nn.functional.mse_loss(r, value[b])
        k = nn.functional.cross_entropy(c, cls[b])
        s = model.log_var
        loss = (-s[0]).exp() * a + s[0] / 2 + (-s[1]).exp() * k + s[1] / 2
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    print(epoch, a.item(), k.item())
with torch.no_grad():
    r, c = model(x)
print("metric: mean_of_r2_and_accuracy", (1 - nn.functional.mse_loss(r, value).item() / value.var().item() + (c.argmax(1) == cls).float().mean().item()) / 2)
