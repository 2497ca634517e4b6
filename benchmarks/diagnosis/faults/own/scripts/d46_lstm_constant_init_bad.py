import torch
from torch import nn

torch.manual_seed(46)
n, T = 640, 10
x = torch.randint(0, 5, (n, T))
label = ((x == 2).sum(1) > (x == 4).sum(1)).long() + 2 * (x[:, -1] > 2).long() + 4 * (x[:, 0] > 2).long()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(5, 12)
        self.lstm = nn.LSTM(12, 40, batch_first=True)
        self.fc = nn.Linear(40, 8)
        self.reset()

    def reset(self):
        for name, p in self.lstm.named_parameters():
            if "weight" in name:
                nn.init.constant_(p, 0.05)
            else:
                nn.init.zeros_(p)
        for p in self.fc.parameters():
            nn.init.constant_(p, 0.05)

    def forward(self, x):
        return self.fc(self.lstm(self.emb(x))[0][:, -1])


net = Net()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(14):
    for b in torch.randperm(n).split(32):
        loss = nn.functional.cross_entropy(net(x[b]), label[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
print("metric: accuracy", (net(x).argmax(1) == label).float().mean().item())
