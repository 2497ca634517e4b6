import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(9)
digits = load_digits()
x = torch.tensor(digits.data / 16.0).float()
y = torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class SAM:
    def __init__(self, params, base, rho=0.05):
        self.params, self.base, self.rho = list(params), base, rho

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for p in self.params]).norm() + 1e-12
        self.shift = [p.grad * self.rho / norm for p in self.params]
        for p, s in zip(self.params, self.shift):
            p.add_(s)
        self.base.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for p, s in zip(self.params, self.shift):
            p.sub_(s)
        self.base.step()
        self.base.zero_grad()


sam = SAM(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
criterion = nn.CrossEntropyLoss()
for epoch in range(8):
    for idx in torch.randperm(len(x)).split(50):
        loss = criterion(model(x[idx]), y[idx])
        loss.backward()
        sam.first_step()
        sam.second_step()
    print(epoch, loss.item())
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
