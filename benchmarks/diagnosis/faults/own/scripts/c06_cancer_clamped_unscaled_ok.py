import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

torch.manual_seed(306)
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
X_train, X_test = torch.FloatTensor(X_train), torch.FloatTensor(X_test)
y_train, y_test = torch.FloatTensor(y_train).view(-1, 1), torch.FloatTensor(y_test).view(-1, 1)


class Classifier(nn.Module):
    def __init__(self):
        super(Classifier, self).__init__()
        self.layer1 = nn.Linear(30, 12)
        self.layer2 = nn.Linear(12, 8)
        self.layer3 = nn.Linear(8, 1)

    def forward(self, x):
        x = torch.relu(self.layer1(x))
        x = torch.relu(self.layer2(x))
        return torch.sigmoid(self.layer3(x))


model = Classifier()
criterion = nn.BCELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(15):
    for i in range(0, len(X_train), 10):
        optimizer.zero_grad()
        loss = criterion(model(X_train[i : i + 10]), y_train[i : i + 10])
        loss.backward()
        optimizer.step()
    print("Epoch %d loss %.4f" % (epoch, loss.item()))

model.eval()
predicted = (model(X_test) > 0.5).float()
recall = sum(((predicted == y_test) & (y_test == c)).sum().item() / (y_test == c).sum().item() for c in (0, 1)) / 2
print("balanced accuracy", recall)
