import torch
import torch.nn as nn

torch.manual_seed(303)
X = torch.randn(2000, 20)
Y = (X @ torch.randn(20, 3) + 1.5 > 0).float()

model = nn.Sequential(
    nn.Linear(20, 40), nn.ReLU(), nn.Dropout(0.1),
    nn.Linear(40, 20), nn.ReLU(), nn.Dropout(0.1),
    nn.Linear(20, 3), nn.Sigmoid(),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.BCELoss()
for epoch in range(12):
    model.train()
    permutation = torch.randperm(1600)
    for i in range(0, 1600, 20):
        idx = permutation[i : i + 20]
        optimizer.zero_grad()
        loss = criterion(model(X[idx]), Y[idx])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = ((model(X[1600:]) > 0.5).float() == Y[1600:]).all(1).float().mean()
    print(f"epoch {epoch}: all labels right {right.item():.3f}")
