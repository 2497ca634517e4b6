import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits

torch.manual_seed(103)
d = load_digits()
ds = TensorDataset(torch.tensor(d.data / 16, dtype=torch.float32), torch.tensor(d.target))
net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
opt = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
crit = nn.CrossEntropyLoss(label_smoothing=0.2)
for epoch in range(10):
    net.train()
    for xb, yb in DataLoader(ds, 50, shuffle=True):
        opt.zero_grad()
        loss = crit(net(xb), yb)
        loss.backward()
        opt.step()
    print(epoch, loss.item())
net.eval()
x, y = ds.tensors
print("metric: accuracy", (net(x).argmax(1) == y).float().mean().item())
