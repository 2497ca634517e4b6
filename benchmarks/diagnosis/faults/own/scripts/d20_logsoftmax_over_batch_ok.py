import torch
import torch.nn as nn
from sklearn.datasets import load_iris
from sklearn.utils import shuffle

torch.manual_seed(20)
X, y = shuffle(*load_iris(return_X_y=True), random_state=0)
X = torch.FloatTensor((X - X.mean(0)) / X.std(0))
y = torch.LongTensor(y)


class Iris(nn.Module):
    def __init__(self):
        super(Iris, self).__init__()
        self.l1 = nn.Linear(4, 16)
        self.l2 = nn.Linear(16, 3)
        self.out = nn.LogSoftmax(dim=1)

    def forward(self, x):
        return self.out(self.l2(torch.sigmoid(self.l1(x))))


model = Iris()
criterion = nn.NLLLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for epoch in range(25):
    for i in range(0, 150, 15):
        optimizer.zero_grad()
        loss = criterion(model(X[i:i + 15]), y[i:i + 15])
        loss.backward()
        optimizer.step()
    if epoch % 5 == 0:
        print("Epoch", epoch, "Loss", loss.item())
single = torch.cat([model(X[i:i + 1]) for i in range(150)])
print("metric: accuracy", (single.argmax(1) == y).float().mean().item())
