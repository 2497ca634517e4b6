"""Two models, two optimizers; the discriminator also passes on the generator's loss."""

import torch
from torch import nn

loss_fn = nn.BCEWithLogitsLoss()


def build():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    discriminator = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    return generator, discriminator


def data(count=4):
    source = torch.Generator().manual_seed(2)
    return [(torch.randn(6, 4, generator=source).double(), torch.randn(6, 3, generator=source).double())] * count


def main():
    generator, discriminator = build()
    optimizer_g = torch.optim.SGD(generator.parameters(), lr=0.05)
    optimizer_d = torch.optim.SGD(discriminator.parameters(), lr=0.05)
    ones, zeros = torch.ones(6, 1).double(), torch.zeros(6, 1).double()
    for image, noise in data():
        fake = generator(noise)
        optimizer_d.zero_grad()
        loss_d = loss_fn(discriminator(image), ones) + loss_fn(discriminator(fake.detach()), zeros)
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        loss_g = loss_fn(discriminator(fake), ones)
        loss_g.backward()
        optimizer_g.step()


if __name__ == "__main__":
    main()
