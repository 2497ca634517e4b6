import torch
import torch.nn as nn

torch.manual_seed(13)
text = ("the quick brown fox jumps over the lazy dog and then the dog sleeps while the fox runs home again " * 12)
chars = sorted(set(text))
ids = torch.tensor([chars.index(c) for c in text])


class CharRNN(nn.Module):
    def __init__(self, v, h=64):
        super().__init__()
        self.e = nn.Embedding(v, 24)
        self.rnn = nn.LSTM(24, h, batch_first=True)
        self.o = nn.Linear(h, v)

    def forward(self, x):
        return self.o(self.rnn(self.e(x))[0])


model = CharRNN(len(chars))
clip_value = 1e-5
for p in model.parameters():
    p.register_hook(lambda grad: torch.clamp(grad, -clip_value, clip_value))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)

T = 24
for step in range(400):
    starts = torch.randint(0, len(ids) - T - 1, (24,))
    window = torch.stack([ids[s:s + T + 1] for s in starts])
    logits = model(window[:, :-1])
    loss = nn.functional.cross_entropy(logits.reshape(-1, len(chars)), window[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(step, loss.item())
with torch.no_grad():
    acc = (model(ids[None, :400]).argmax(-1)[0] == ids[1:401]).float().mean()
print("metric: next_char_accuracy", acc.item())
