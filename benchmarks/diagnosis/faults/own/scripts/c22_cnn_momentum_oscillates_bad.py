import torch
import torch.nn as nn
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(322)
digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
x = (x - x.mean()) / x.std()
loader = DataLoader(TensorDataset(x, torch.tensor(digits.target)), batch_size=32, shuffle=True)

cnn = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10),
)
optimizer = optim.SGD(cnn.parameters(), lr=0.5, momentum=0.95)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
criterion = nn.CrossEntropyLoss()
for epoch in range(8):
    running_loss = 0.0
    for i, (inputs, labels) in enumerate(loader, 0):
        optimizer.zero_grad()
        outputs = cnn(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    scheduler.step()
    print("[%d] loss: %.3f" % (epoch + 1, running_loss / len(loader)))
print("accuracy", (cnn(x).argmax(1) == torch.tensor(digits.target)).float().mean().item())
