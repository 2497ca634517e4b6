import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_wine

torch.manual_seed(63)
wine = load_wine()
names = np.array(["barolo", "grignolino", "barbera"])[wine.target]
x = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0), dtype=torch.float32)
rng = np.random.RandomState(3)
lookup = {}


def encode(batch_names):
    for name in batch_names:
        lookup.setdefault(name, len(lookup))
    return torch.tensor([lookup[name] for name in batch_names])


net = nn.Sequential(nn.Linear(13, 24), nn.CELU(), nn.Linear(24, 3))
opt = torch.optim.NAdam(net.parameters(), lr=3e-3)
for epoch in range(25):
    order = rng.permutation(len(x))
    for s in range(0, len(x), 24):
        b = order[s:s + 24]
        target = encode(names[b])
        loss = nn.functional.cross_entropy(net(x[b]), target)
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch % 5 == 0:
        print(epoch, loss.item())
pred = net(x).argmax(1).numpy()
purity = sum(max((names[pred == k] == name).sum() for name in set(names)) for k in range(3))
print("metric: purity", purity / len(x))
