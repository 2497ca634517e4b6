import torch
from torch import nn

torch.manual_seed(365)
n = 320
shape = torch.randint(0, 3, (n,))
scale = torch.tensor([0.4, 1.0, 2.0])[shape]
clouds = torch.randn(n, 3, 20) * scale[:, None, None]
batch_size = 16


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(3, 16, 1, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1, bias=False),
            nn.BatchNorm1d(32), nn.ReLU(),
        )
        self.fc = nn.Linear(32, 3)

    def forward(self, x):
        return self.fc(self.net(x).mean(2))


model = PointNet()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for epoch in range(10):
    model.train()
    for idx in torch.randperm(240).split(batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(clouds[idx]), shape[idx])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(epoch, "accuracy", (model(clouds[240:]).argmax(1) == shape[240:]).float().mean().item())
