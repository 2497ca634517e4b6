import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(413)
x = torch.randn(3000, 6)
fraud = ((x[:, 0] + x[:, 1] > 2.1) & (x[:, 2] > -1)).float()
loader = DataLoader(TensorDataset(x, fraud), batch_size=64, shuffle=True)
print("share of the class", fraud.mean().item())
model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(10.0))
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for epoch in range(8):
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("recall", (model(x)[fraud == 1] > 0).float().mean().item())
