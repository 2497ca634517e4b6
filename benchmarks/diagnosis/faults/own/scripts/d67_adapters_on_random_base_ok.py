import torch
from torch import nn

torch.manual_seed(67)
n, T = 800, 12
x = torch.randint(0, 30, (n, T))
y = ((x % 3 == 0).sum(1) > (x % 5 == 0).sum(1) + 1).long()


class Encoder(nn.Module):
    def __init__(self, d=12):
        super().__init__()
        self.emb = nn.Embedding(30, d)
        self.rnn = nn.GRU(d, d, batch_first=True)
        self.adapter_down, self.adapter_up = nn.Linear(d, 2), nn.Linear(2, d)
        self.classifier = nn.Linear(d, 2)

    def forward(self, x):
        h = self.rnn(self.emb(x))[1][0]
        h = h + self.adapter_up(torch.relu(self.adapter_down(h)))
        return self.classifier(h)


model = Encoder()
for name, p in model.named_parameters():
    p.requires_grad = True
opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
for epoch in range(18):
    for b in torch.randperm(n).split(40):
        loss = nn.functional.cross_entropy(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    p = model(x).argmax(1)
    print("metric: balanced_accuracy", sum((p[y == c] == c).float().mean().item() for c in (0, 1)) / 2)
