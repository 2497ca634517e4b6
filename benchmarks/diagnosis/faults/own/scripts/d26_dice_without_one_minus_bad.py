import torch
from torch import nn

torch.manual_seed(26)
n, s = 320, 16
corner = torch.randint(1, 9, (n, 2))
size = torch.randint(4, 7, (n, 2))
rows = torch.arange(s)
inside = lambda k: (rows >= corner[:, k, None]) & (rows < corner[:, k, None] + size[:, k, None])
mask = (inside(0)[:, :, None] & inside(1)[:, None, :]).float()[:, None]
image = mask + 0.7 * torch.randn(n, 1, s, s)


class SoftDice(nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits, target):
        p = torch.sigmoid(logits).flatten(1)
        t = target.flatten(1)
        dice = (2 * (p * t).sum(1) + self.smooth) / (p.sum(1) + t.sum(1) + self.smooth)
        return dice.mean()


net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
                    nn.Conv2d(12, 12, 3, padding=2, dilation=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 1, 1))
criterion = SoftDice()
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for epoch in range(10):
    net.train()
    for b in torch.randperm(n).split(20):
        optimizer.zero_grad()
        loss = criterion(net(image[b]), mask[b])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
net.eval()
with torch.no_grad():
    p = (net(image) > 0).float()
    score = 2 * (p * mask).sum() / (p.sum() + mask.sum())
print("metric: dice", score.item())
