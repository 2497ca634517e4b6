import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(336)
X = torch.tensor(load_digits().data / 16, dtype=torch.float32)


class BinaryAutoencoder(nn.Module):
    def __init__(self, bits=24):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, bits))
        self.decoder = nn.Sequential(nn.Linear(bits, 48), nn.ReLU(), nn.Linear(48, 64), nn.Sigmoid())
        nn.init.constant_(self.encoder[2].bias, 0.8)

    def forward(self, x):
        logits = self.encoder(x)
        code = (logits > 0).float()
        return self.decoder(code)


model = BinaryAutoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for epoch in range(25):
    for idx in torch.randperm(len(X)).split(64):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X[idx]), X[idx])
        loss.backward()
        optimizer.step()
    if epoch % 5 == 0:
        print("epoch", epoch, "reconstruction", loss.item())
with torch.no_grad():
    print("R2", (1 - ((model(X) - X) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()).item())
