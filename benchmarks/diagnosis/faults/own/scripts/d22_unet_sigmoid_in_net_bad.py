import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(22)


def make(n, s=16):
    gy, gx = torch.meshgrid(torch.arange(s), torch.arange(s), indexing="ij")
    cx, cy = torch.randint(3, s - 3, (2, n, 1, 1))
    r = torch.rand(n, 1, 1) * 1.5 + 1.2
    mask = (((gx - cx) ** 2 + (gy - cy) ** 2) < r ** 2).float()
    return (mask * 0.8 + 0.5 * torch.randn(n, s, s))[:, None], mask[:, None]


class UNet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.d1 = nn.Sequential(nn.Conv2d(1, c, 3, padding=1), nn.ReLU())
        self.d2 = nn.Sequential(nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.u1 = nn.Sequential(nn.Conv2d(2 * c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, 1, 1))

    def forward(self, x):
        a = self.d1(x)
        b = self.up(self.d2(F.max_pool2d(a, 2)))
        d1 = self.u1(torch.cat([a, b], 1))
        return torch.sigmoid(d1)


x, m = make(400)
net = UNet()
opt = torch.optim.RMSprop(net.parameters(), lr=1e-3)
bce = nn.BCEWithLogitsLoss()
for epoch in range(8):
    for b in torch.randperm(len(x)).split(16):
        loss = bce(net(x[b]), m[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    p = torch.sigmoid(net(x)) > 0.5
    iou = (p & (m > 0)).sum() / (p | (m > 0)).sum()
print("metric: iou", iou.item())
