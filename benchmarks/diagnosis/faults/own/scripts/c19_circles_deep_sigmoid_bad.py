import argparse
import torch
from torch import nn
from sklearn.datasets import make_circles


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.05)
    return parser.parse_args([])


def make_model(depth, width):
    layers, features = [], 2
    for _ in range(depth):
        linear = nn.Linear(features, width)
        layers += [linear, nn.Sigmoid()]
        features = width
    return nn.Sequential(*layers, nn.Linear(width, 1))


args = parse()
torch.manual_seed(319)
points, side = make_circles(1000, noise=0.05, factor=0.4, random_state=1)
points, side = torch.tensor(points).float(), torch.tensor(side).float().unsqueeze(1)
model = make_model(args.depth, args.width)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(12):
    for index in torch.randperm(1000).split(32):
        optimizer.zero_grad()
        loss = criterion(model(points[index]), side[index])
        loss.backward()
        optimizer.step()
    print("epoch", epoch, "loss", loss.item())
print("accuracy", ((model(points) > 0) == (side > 0.5)).float().mean().item())
