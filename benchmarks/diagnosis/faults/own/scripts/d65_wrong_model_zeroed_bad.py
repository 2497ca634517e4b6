import copy
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(65)
x = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]

student = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 12),
                        nn.Linear(12, 256), nn.ReLU(), nn.Unflatten(1, (16, 4, 4)), nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1))
ema = copy.deepcopy(student).requires_grad_(False)
opt = torch.optim.SGD(student.parameters(), lr=0.2, momentum=0.9)
for epoch in range(14):
    for b in torch.randperm(len(x)).split(60):
        ema.zero_grad()
        loss = nn.functional.mse_loss(student(x[b]), x[b])
        loss.backward()
        opt.step()
        with torch.no_grad():
            for p, q in zip(ema.parameters(), student.parameters()):
                p.lerp_(q, 0.05)
    print(epoch, loss.item())
with torch.no_grad():
    r2 = 1 - (ema(x) - x).pow(2).mean() / (x - x.mean(0)).pow(2).mean()
print("metric: reconstruction_r2", r2.item())
