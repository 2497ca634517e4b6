import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(37)
d = load_digits()
x = torch.tensor(d.images, dtype=torch.float32)[:, None]
y = torch.tensor(d.target)


class Backbone(nn.Module):
    def __init__(self, norm_eval=False):
        super().__init__()
        self.norm_eval = norm_eval
        layers, c = [], 1
        for i, o in enumerate((12, 24, 24, 24, 24, 24)):
            layers += [nn.Conv2d(c, o, 3, padding=1, bias=False, stride=2 if i == 2 else 1), nn.BatchNorm2d(o), nn.ReLU()]
            c = o
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(24, 10)

    def train(self, mode=True):
        super().train(mode)
        if mode and self.norm_eval:
            for m in self.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.eval()
        return self

    def forward(self, x):
        return self.head(self.features(x))


net = Backbone(norm_eval=True)
opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
for epoch in range(4):
    net.train()
    for b in torch.randperm(len(x)).split(40):
        loss = nn.functional.cross_entropy(net(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
net.eval()
with torch.no_grad():
    print("metric: accuracy", (net(x).argmax(1) == y).float().mean().item())
