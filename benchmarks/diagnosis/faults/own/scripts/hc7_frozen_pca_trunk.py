import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(407)
digits = load_digits()
pca = PCA(20).fit(digits.data / 16)
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
trunk = nn.Linear(64, 20)
trunk.load_state_dict(
    {
        "weight": torch.tensor(pca.components_, dtype=torch.float32),
        "bias": torch.tensor(-pca.components_ @ pca.mean_, dtype=torch.float32),
    }
)
for p in trunk.parameters():
    p.requires_grad = False
head = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))
model = nn.Sequential(trunk, head)
optimizer = torch.optim.Adam(head.parameters(), lr=0.005)
for epoch in range(8):
    for xb, yb in DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(xb), yb)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
print("accuracy", (model(x).argmax(1) == y).float().mean().item())
