"""DataLoader workers under ``if __name__``; with "spawn" they import this file anew."""

import sys

import torch
from plain import batches, build
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    def __init__(self):
        self.rows = [(x, y) for xs, ys in batches(4) for x, y in zip(xs, ys, strict=True)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


if __name__ == "__main__":
    loader = DataLoader(Rows(), batch_size=5, num_workers=1, multiprocessing_context=sys.argv[1])
    model = build(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = torch.nn.CrossEntropyLoss()
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
