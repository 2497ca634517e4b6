import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(347)
digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
criterion = nn.CosineEmbeddingLoss(margin=0.2)
groups = [torch.where(y == digit)[0] for digit in range(10)]
for step in range(600):
    a = torch.randint(0, len(x), (64,))
    b = torch.randint(0, len(x), (64,))
    for i in range(0, 64, 2):
        group = groups[y[a[i]]]
        b[i] = group[torch.randint(0, len(group), ())]
    same = (y[a] == y[b]).float()
    loss = criterion(encoder(x[a]), encoder(x[b]), 2 * same - 1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(step, loss.item())
with torch.no_grad():
    e = nn.functional.normalize(encoder(x), dim=1)
    centres = nn.functional.normalize(torch.stack([e[y == d].mean(0) for d in range(10)]), dim=1)
    similarity = e @ e.T
    close, far = similarity[y[:, None] == y], similarity[y[:, None] != y]
    print("pairs told apart at .5", ((close > 0.5).float().mean() + (far < 0.5).float().mean()).item() / 2)
