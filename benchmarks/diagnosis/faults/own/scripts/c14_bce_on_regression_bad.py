import torch
from torch import nn
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

torch.manual_seed(314)
raw = load_diabetes()
X = torch.tensor(StandardScaler().fit_transform(raw.data), dtype=torch.float32)
Y = torch.tensor(StandardScaler().fit_transform(raw.target[:, None]), dtype=torch.float32)

model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))
opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loss_fn = nn.BCEWithLogitsLoss()
for epoch in range(20):
    for idx in torch.split(torch.randperm(len(X)), 20):
        opt.zero_grad()
        loss = loss_fn(model(X[idx]), Y[idx])
        loss.backward()
        opt.step()
    print("epoch %2d  loss %.4f" % (epoch, loss))
with torch.no_grad():
    print("R2", 1 - (((model(X) - Y) ** 2).mean() / Y.var()).item())
