import torch
from torch import nn
from sklearn.datasets import load_sample_images

torch.manual_seed(318)
photo = torch.tensor(load_sample_images().images[0]).float()
photo = photo.permute(2, 0, 1)[:, :416, :640]
patches = photo.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)
small = nn.functional.avg_pool2d(patches, 2)


class SRNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 5, padding=2)
        self.conv2 = nn.Conv2d(24, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 3, 2, stride=2)

    def forward(self, x):
        return self.up(torch.relu(self.conv2(torch.relu(self.conv1(x)))))


model = SRNet()
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
for epoch in range(12):
    order = torch.randperm(len(small))
    for i in range(0, len(small), 16):
        pick = order[i : i + 16]
        loss = nn.functional.mse_loss(model(small[pick]), patches[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("R2", 1 - (((model(small) - patches) ** 2).mean() / patches.var()).item())
