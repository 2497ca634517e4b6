import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(28)
k = 20
centres = torch.randn(k, 12)
label = torch.arange(1600) % k
x = centres[label] + 0.7 * torch.randn(1600, 12)
one_hot = F.one_hot(label, k).float()

clf = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, k), nn.Softmax(dim=1))
opt = torch.optim.SGD(clf.parameters(), lr=0.1, momentum=0.9)
loss_fn = nn.L1Loss()
for epoch in range(15):
    order = torch.randperm(1600)
    for start in range(0, 1600, 80):
        b = order[start:start + 80]
        p = clf(x[b])
        loss = F.nll_loss((p + 1e-9).log(), label[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"{epoch}: {loss.item():.4f}")
print("metric: accuracy", (clf(x).argmax(1) == label).float().mean().item())
