import torch
from torch import nn

torch.manual_seed(364)
symbols, length = 5, 12
patterns = torch.randn(symbols, 6)
words = torch.randint(0, symbols, (600, 3))
frames = patterns[words.repeat_interleave(4, dim=1)] + 0.3 * torch.randn(600, length, 6)
targets = words


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 32, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(64, symbols + 1)

    def forward(self, x):
        return self.fc(self.rnn(x)[0]).log_softmax(2).transpose(0, 1)


model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
ctc = nn.CTCLoss(blank=0)
for epoch in range(8):
    for idx in torch.randperm(600).split(30):
        out = model(frames[idx])
        loss = ctc(out, targets[idx], torch.full((len(idx),), length), torch.full((len(idx),), 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    best = model(frames).argmax(2).T
right = 0
for path, word in zip(best.tolist(), targets.tolist()):
    letters = [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)]
    collapsed = [c for i, c in enumerate(word) if i == 0 or word[i - 1] != c]
    right += letters in (word, collapsed)
print("words read", right / 600)
