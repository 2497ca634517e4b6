import torch
from torch import nn

torch.manual_seed(38)
n, T = 600, 30
freq = torch.randint(1, 4, (n,))
t = torch.linspace(0, 1, T)
x = torch.sin(6.2832 * freq[:, None] * t + 6.28 * torch.rand(n, 1)) + 0.3 * torch.randn(n, T)
label = freq - 1


class SeriesEncoder(nn.Module):
    def __init__(self, d=24):
        super().__init__()
        self.norm = nn.LayerNorm(1)
        self.proj = nn.Linear(1, d)
        self.conv = nn.Conv1d(d, d, 7, padding=3)
        self.out = nn.Linear(d, 3)

    def forward(self, x):
        h = self.proj(self.norm(x[..., None]))
        h = torch.relu(self.conv(h.transpose(1, 2)))
        return self.out(h.amax(2))


model = SeriesEncoder()
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
for epoch in range(15):
    for b in torch.randperm(n).split(30):
        loss = nn.functional.cross_entropy(model(x[b]), label[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: accuracy", (model(x).argmax(1) == label).float().mean().item())
