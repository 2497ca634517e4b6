import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.manual_seed(49)
d = load_digits()
xtr, xte, ytr, yte = train_test_split(d.data / 8 - 1, d.target, test_size=0.3, random_state=0)
xtr, xte = torch.FloatTensor(xtr), torch.FloatTensor(xte)
ytr, yte = torch.LongTensor(ytr), torch.LongTensor(yte)

model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(),
                      nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10))
for m in model:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight)
opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for epoch in range(12):
    for b in torch.randperm(len(xtr)).split(32):
        loss = nn.functional.cross_entropy(model(xtr[b]), ytr[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print("metric: test_accuracy", (model(xte).argmax(1) == yte).float().mean().item())
