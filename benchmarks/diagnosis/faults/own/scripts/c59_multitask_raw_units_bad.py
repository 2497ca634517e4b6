import torch
from torch import nn

torch.manual_seed(360)
x = torch.randn(1200, 8)
kind = (x[:, 0] * x[:, 1] > 0).long()
income = 40000 + 15000 * x[:, 2] + 8000 * x[:, 3].abs()


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.classify, self.regress = nn.Linear(32, 2), nn.Linear(32, 1)

    def forward(self, x):
        h = self.shared(x)
        return self.classify(h), self.regress(h).squeeze(1)


model = TwoTasks()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for epoch in range(20):
    for idx in torch.randperm(1200).split(40):
        logits, amount = model(x[idx])
        loss = nn.functional.cross_entropy(logits, kind[idx]) + nn.functional.mse_loss(amount, income[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    logits, amount = model(x)
print("R2", 1 - (((amount - income) ** 2).mean() / income.var()).item())
print("accuracy", (logits.argmax(1) == kind).float().mean().item())
