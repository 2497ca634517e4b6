import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, optimizer, loss_fn):
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn

    def update(self, loss):
        loss.backward()
        for parameter in self.model.parameters():
            parameter.grad.zero_()
        self.optimizer.step()

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            for x, y in loader:
                loss = self.loss_fn(self.model(x), y)
                self.update(loss)
            print("epoch", epoch, loss.item())


torch.manual_seed(330)
X, y = load_wine(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
model = nn.Sequential(nn.Linear(13, 32), nn.LeakyReLU(), nn.Linear(32, 3))
trainer = Trainer(model, torch.optim.AdamW(model.parameters(), lr=0.01), nn.CrossEntropyLoss())
trainer.fit(DataLoader(TensorDataset(X, y), batch_size=16, shuffle=True), epochs=10)
print("accuracy", (model(X).argmax(1) == y).float().mean().item())
