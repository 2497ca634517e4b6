import torch
from torch import nn
from torch.utils.data import Dataset, DataLoader

torch.manual_seed(30)


class Shapes(Dataset):
    def __init__(self, n, augment):
        self.augment = augment
        self.img = torch.randn(n, 1, 16, 16) * 0.2
        self.mask = torch.zeros(n, 16, 16)
        for k in range(n):
            r, c = torch.randint(0, 11, (2,)).tolist()
            self.mask[k, r:r + 5, c:c + 5] = 1
        self.img[:, 0] += self.mask

    def __len__(self):
        return len(self.img)

    def __getitem__(self, k):
        img, mask = self.img[k], self.mask[k]
        if self.augment:
            turns = int(torch.randint(0, 4, (1,)))
            img = torch.rot90(img, turns, (-2, -1))
        return img, mask


train, test = Shapes(480, True), Shapes(120, False)
net = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 1, 1))
opt = torch.optim.Adam(net.parameters(), lr=2e-3)
loss_fn = nn.BCEWithLogitsLoss()
for epoch in range(8):
    for img, mask in DataLoader(train, batch_size=24, shuffle=True):
        opt.zero_grad()
        loss = loss_fn(net(img).squeeze(1), mask)
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    p, m = net(test.img).squeeze(1) > 0, test.mask > 0
print("metric: iou", ((p & m).sum() / (p | m).sum()).item())
