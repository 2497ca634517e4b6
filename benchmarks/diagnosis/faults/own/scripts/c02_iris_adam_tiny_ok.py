import torch
from torch import nn, optim
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

torch.manual_seed(302)
iris = load_iris()
x = torch.tensor(StandardScaler().fit_transform(iris.data)).float()
y = torch.tensor(iris.target)

model = nn.Sequential(
    nn.Linear(4, 16),
    nn.ReLU(),
    nn.Linear(16, 16),
    nn.ReLU(),
    nn.Linear(16, 3),
)
optimizer = optim.Adam(model.parameters(), lr=0.01)
loss_function = nn.CrossEntropyLoss()

n_epochs, batch_size = 25, 16
for epoch in range(n_epochs):
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch_size):
        pick = order[start : start + batch_size]
        prediction = model(x[pick])
        loss = loss_function(prediction, y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 5 == 0:
        print("epoch", epoch, "loss", loss.item())
print("accuracy", (model(x).argmax(dim=1) == y).float().mean().item())
