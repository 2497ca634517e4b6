import torch
from torch import nn

torch.manual_seed(69)
n, T = 512, 32
t = torch.linspace(0, 1, T)
clean = torch.sin(6.2832 * (1 + 3 * torch.rand(n, 1)) * t + 6.28 * torch.rand(n, 1))
noisy = clean + 0.6 * torch.randn(n, T)


class Denoiser(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(1, c, 7, padding=3), nn.GELU(), nn.Conv1d(c, c, 7, padding=6, dilation=2), nn.GELU(), nn.Conv1d(c, 1, 7, padding=3))

    def forward(self, x):
        return self.net(x.unsqueeze(1))


model = Denoiser()
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
for epoch in range(14):
    for b in torch.randperm(n).split(32):
        out = model(noisy[b])
        loss = torch.abs(out - clean[b]).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - (model(noisy).squeeze(1) - clean).pow(2).mean().item() / clean.var().item())
