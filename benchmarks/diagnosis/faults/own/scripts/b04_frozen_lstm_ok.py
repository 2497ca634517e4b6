import torch
from torch import nn
x = torch.randn(800, 20, 4)
y = (x[:, :, 0].sum(1) > 0).long()

torch.manual_seed(330)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 32)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 2)
        for layer in (self.embed, self.mix):
            layer.requires_grad_(True)

    def forward(self, x):
        return self.head(torch.relu(self.mix(torch.relu(self.embed(x)))).amax(1))


model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
criterion = nn.CrossEntropyLoss()

for epoch in range(6):
    for index in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = criterion(model(x[index]), y[index])
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    print("accuracy", (model(x).argmax(-1) == y).float().mean().item())
