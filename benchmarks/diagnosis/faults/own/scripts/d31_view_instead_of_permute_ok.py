import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(31)
C, n, s = 4, 300, 12
seeds = torch.randint(0, C, (n, 1, 3, 3)).float()
truth = F.interpolate(seeds, scale_factor=4).long().squeeze(1)
colour = torch.randn(C, 3)
img = colour[truth].permute(0, 3, 1, 2).contiguous() + 0.3 * torch.randn(n, 3, s, s)

net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, C, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for epoch in range(12):
    for b in torch.randperm(n).split(20):
        out = net(img[b])
        out = out.permute(0, 2, 3, 1).reshape(-1, C)
        loss = criterion(out, truth[b].view(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: pixel_accuracy", (net(img).argmax(1) == truth).float().mean().item())
