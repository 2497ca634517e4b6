import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(355)
digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
classifier = nn.Sequential(nn.Linear(5, 10))
opt_encoder = torch.optim.Adam(encoder.parameters(), lr=0.005)
opt_classifier = torch.optim.Adam(classifier.parameters(), lr=0.005)


def train_epoch():
    total = 0.0
    for idx in torch.randperm(len(x)).split(48):
        opt_encoder.zero_grad()
        opt_classifier.zero_grad()
        loss = nn.functional.cross_entropy(classifier(encoder(x[idx])), y[idx])
        loss.backward()
        opt_classifier.step()
        total += loss.item() * len(idx)
    return total / len(x)


for epoch in range(10):
    print(epoch, train_epoch())
with torch.no_grad():
    print("accuracy", (classifier(encoder(x)).argmax(1) == y).float().mean().item())
