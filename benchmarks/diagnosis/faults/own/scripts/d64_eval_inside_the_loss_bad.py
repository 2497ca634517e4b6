import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(64)
n = 480
count = torch.randint(0, 5, (n,))
img = torch.rand(n, 1, 14, 14) * 60 + 90
for k in range(n):
    for _ in range(count[k]):
        r, c = torch.randint(0, 12, (2,)).tolist()
        img[k, 0, r:r + 2, c:c + 2] += 110
coarse = (count > 2).long()

net = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2))


def hard_examples(model, x, y):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        wrong = model(x).argmax(1) != y
    return 1.0 + 0.5 * wrong.float()


opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(15):
    net.train()
    for b in torch.randperm(n).split(32):
        weight = hard_examples(net, img[b], coarse[b])
        loss = (weight * F.cross_entropy(net(img[b]), coarse[b], reduction="none")).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
net.eval()
with torch.no_grad():
    p = net(img).argmax(1)
    rec = [(p[coarse == c] == c).float().mean().item() for c in (0, 1)]
print("metric: balanced_accuracy", sum(rec) / 2)
