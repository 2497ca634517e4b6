import torch
from torch import nn

torch.manual_seed(33)
cfg = {"channels": [8, 16, 16], "activation": "GELU", "lr": 2e-3}
n = 900
img = torch.randn(n, 1, 10, 10) * 0.3
sign = torch.randint(0, 2, (n, 2)) * 2 - 1
pos = torch.randint(0, 9, (n, 2))
for k in range(n):
    r, c = pos[k]
    img[k, 0, r, c] += 3.0 * sign[k, 0]
    img[k, 0, r, c + 1] += 3.0 * sign[k, 1]
label = (sign[:, 0] == sign[:, 1]).long()


def block(i, o):
    act = getattr(nn, cfg["activation"], nn.Identity)
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), act())


chan = [1] + cfg["channels"]
net = nn.Sequential(*[block(a, b) for a, b in zip(chan, chan[1:])], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(chan[-1], 2))
opt = torch.optim.AdamW(net.parameters(), lr=cfg["lr"])
for epoch in range(12):
    for b in torch.randperm(n).split(45):
        loss = nn.functional.cross_entropy(net(img[b]), label[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print("metric: accuracy", (net(img).argmax(1) == label).float().mean().item())
