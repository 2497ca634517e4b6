import torch
from torch import nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


def evaluate(model, loader):
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in loader:
            right += (model(x).argmax(1) == y).sum().item()
    model.train()
    return right / len(loader.dataset)


def main():
    torch.manual_seed(419)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    train, test = random_split(TensorDataset(images, torch.tensor(digits.target)), [1500, 297])
    train, test = DataLoader(train, batch_size=8, shuffle=True), DataLoader(test, batch_size=100)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(4):
        for i, (x, y) in enumerate(train):
            loss = nn.functional.cross_entropy(model(x), y) / 4
            loss.backward()
            if i % 4 == 3:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            if i % 20 == 19:
                evaluate(model, test)
        print(f"epoch {epoch} test accuracy {evaluate(model, test):.3f}")


if __name__ == "__main__":
    main()
