import torch
from torch import nn

torch.manual_seed(345)
n, size = 240, 24
grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).float()
centre = torch.rand(n, 2) * 16 + 4
masks = ((grid[None] - centre[:, :, None, None]).norm(dim=1, keepdim=True) < 2.5).float()
scans = masks * 1.0 + 0.2 * torch.randn(n, 1, size, size)


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.mid, self.up = block(1, 8), block(8, 16), block(24, 8)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        a = self.down(x)
        b = self.grow(self.mid(self.pool(a)))
        x = self.out(self.up(torch.cat([a, b], 1)))
        return x


model, criterion = UNet(), nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(10):
    for idx in torch.randperm(n).split(8):
        optimizer.zero_grad()
        loss = criterion(model(scans[idx]), masks[idx])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    found = model(scans) > 0
print("recall of the mask", found[masks == 1].float().mean().item())
