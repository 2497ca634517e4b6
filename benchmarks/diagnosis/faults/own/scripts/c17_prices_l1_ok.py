import torch
import torch.nn as nn

torch.manual_seed(317)
n = 1000
features = torch.randn(n, 7)
price = 900000 + 250000 * features[:, 0] + 150000 * features[:, 1] * features[:, 2].sign() + 50000 * torch.randn(n)
price = price.unsqueeze(1)
price = (price - price.mean()) / price.std()

model = nn.Sequential(nn.Linear(7, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.xavier_normal_(m.weight)
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
mae = nn.L1Loss()
for epoch in range(30):
    permutation = torch.randperm(n)
    for i in range(0, n, 50):
        indices = permutation[i : i + 50]
        optimizer.zero_grad()
        loss = mae(model(features[indices]), price[indices])
        loss.backward()
        optimizer.step()
    if (epoch + 1) % 10 == 0:
        print("MAE", loss.item())
with torch.no_grad():
    print("R2", 1 - (((model(features) - price) ** 2).mean() / price.var()).item())
