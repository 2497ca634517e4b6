import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(55)
d = load_digits()
seq = torch.tensor(d.images / 16, dtype=torch.float32)
y = torch.tensor(d.target)
base_lr = 4e-3
epochs, per_epoch = 8, 36


def schedule(step):
    lr = base_lr * (1 - step / (epochs * per_epoch + 1))
    return lr


class RowGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 48, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(96, 10)

    def forward(self, x):
        return self.fc(self.gru(x)[0].mean(1))


model = RowGRU()
optimizer = torch.optim.Adam(model.parameters(), lr=base_lr)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
for epoch in range(epochs):
    for b in torch.randperm(len(seq)).split(50):
        loss = nn.functional.cross_entropy(model(seq[b]), y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    print(epoch, loss.item())
print("metric: accuracy", (model(seq).argmax(1) == y).float().mean().item())
