import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Blobs(Dataset):
    """A light spot on a dark image; the target is where it is."""

    def __init__(self, n, size=16):
        torch.manual_seed(316)
        grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).float()
        centre = torch.rand(n, 2) * (size - 4) + 2
        distance = ((grid[None] - centre[:, :, None, None]) ** 2).sum(1)
        self.images = torch.exp(-distance / 6) + 0.05 * torch.randn(n, size, size)
        self.points = (centre - size / 2) / (size / 2)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.points[i]


data = Blobs(1200)
loader = DataLoader(data, batch_size=48, shuffle=True)
model = nn.Sequential(
    nn.Flatten(), nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2), nn.Tanh()
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
for epoch in range(12):
    for image, point in loader:
        optimizer.zero_grad()
        loss = criterion(model(image), point)
        loss.backward()
        optimizer.step()
    print(f"{epoch}: {loss.item():.4f}")
with torch.no_grad():
    print("R2", 1 - (criterion(model(data.images), data.points) / data.points.var()).item())
