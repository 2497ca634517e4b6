import torch
from torch import nn

torch.manual_seed(60)
K, T, L, N = 6, 15, 3, 480
target = torch.randint(1, K, (N, L))
x = torch.randn(N, T, K) * 0.3
for n in range(N):
    place = torch.randperm(T // 3)[:L].sort().values * 3
    x[n, place, target[n]] += 2.5
    x[n, place + 1, target[n]] += 2.5


class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(K, 32, 3, padding=1)
        self.gru = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(64, K)

    def forward(self, x):
        h = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        out = self.fc(self.gru(h)[0])
        return out.log_softmax(-1)


model = Recogniser()
ctc = nn.CTCLoss(blank=0)
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
lens = lambda n, v: torch.full((n,), v, dtype=torch.long)
for epoch in range(14):
    for b in torch.randperm(N).split(32):
        out = model(x[b]).transpose(0, 1)
        loss = ctc(out, target[b], lens(len(b), T), lens(len(b), L))
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
with torch.no_grad():
    path = model(x).argmax(-1)
good = 0
for p, t in zip(path, target):
    s = torch.unique_consecutive(p)
    good += s[s > 0].tolist() == torch.unique_consecutive(t).tolist() or s[s > 0].tolist() == t.tolist()
print("metric: exact_match", good / N)
