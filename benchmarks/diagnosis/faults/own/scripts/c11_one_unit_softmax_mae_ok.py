import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.manual_seed(311)
age = torch.rand(1200, 1) * 4 - 2
bought = ((age.abs() > 0.9) ^ (torch.rand(1200, 1) < 0.03)).float()
train_set, test_set = random_split(TensorDataset(age, bought), [960, 240])
loader = DataLoader(train_set, batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(1, 8), nn.Sigmoid(), nn.Linear(8, 1), nn.Sigmoid())
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.02)
criterion = nn.BCELoss()

for epoch in range(30):
    model.train()
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
    if epoch % 5 == 4:
        print("epoch", epoch + 1, "loss", round(loss.item(), 4))

model.eval()
test_x, test_y = (torch.stack(column) for column in zip(*test_set))
p = (model(test_x) > 0.5).float()
rates = [(p[test_y == c] == c).float().mean().item() for c in (0, 1)]
print("balanced accuracy", sum(rates) / 2)
