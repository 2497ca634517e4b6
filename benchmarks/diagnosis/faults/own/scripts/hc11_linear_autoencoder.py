import torch
from torch import nn
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

torch.manual_seed(411)
X = torch.tensor(StandardScaler().fit_transform(load_wine().data), dtype=torch.float32)


class LinearAutoencoder(nn.Module):
    """A principal component analysis by gradient descent: linear on purpose."""

    def __init__(self, d=13, k=5):
        super().__init__()
        self.encoder = nn.Linear(d, k, bias=False)
        self.decoder = nn.Linear(k, d, bias=False)

    def forward(self, x):
        return self.decoder(self.encoder(x))


model = LinearAutoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(60):
    for idx in torch.randperm(len(X)).split(32):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X[idx]), X[idx])
        loss.backward()
        optimizer.step()
    if epoch % 10 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    print("R2 (PCA with 5: .80)", 1 - ((model(X) - X) ** 2).mean().item())
