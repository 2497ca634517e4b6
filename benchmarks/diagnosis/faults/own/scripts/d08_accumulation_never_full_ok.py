import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import make_moons

torch.manual_seed(8)
X, Y = make_moons(900, noise=0.12, random_state=8)
data = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)[:, None])
loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
accumulate = 4

model = nn.Sequential(nn.Linear(2, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
opt = torch.optim.AdamW(model.parameters(), lr=8e-3)
loss_fn = nn.BCEWithLogitsLoss()

for epoch in range(24):
    opt.zero_grad()
    for ni, (xb, yb) in enumerate(loader):
        loss = loss_fn(model(xb), yb) / accumulate
        loss.backward()
        if (ni + 1) % accumulate == 0:
            opt.step()
            opt.zero_grad()
    print(f"epoch {epoch} loss {loss.item() * accumulate:.4f}")

x, y = data.tensors
print("metric: accuracy", ((model(x) > 0).float() == y).float().mean().item())
