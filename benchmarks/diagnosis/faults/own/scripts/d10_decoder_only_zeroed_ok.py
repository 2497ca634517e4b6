import torch
import torch.nn as nn

torch.manual_seed(10)
V, L, N = 10, 5, 512
src = torch.randint(1, V, (N, L))
tgt = src.flip(1)


class Encoder(nn.Module):
    def __init__(self, h=64):
        super().__init__()
        self.emb = nn.Embedding(V, h)
        self.gru = nn.GRU(h, h, batch_first=True)

    def forward(self, s):
        return self.gru(self.emb(s))[1]


class Decoder(nn.Module):
    def __init__(self, h=64):
        super().__init__()
        self.emb = nn.Embedding(V, h)
        self.gru = nn.GRU(h, h, batch_first=True)
        self.out = nn.Linear(h, V)

    def forward(self, prev, h):
        o, h = self.gru(self.emb(prev), h)
        return self.out(o)


enc, dec = Encoder(), Decoder()
enc_opt = torch.optim.SGD(enc.parameters(), lr=0.3, momentum=0.9)
dec_opt = torch.optim.SGD(dec.parameters(), lr=0.3, momentum=0.9)


def train_step(s, t):
    enc_opt.zero_grad()
    dec_opt.zero_grad()
    prev = torch.cat([torch.zeros(len(t), 1, dtype=torch.long), t[:, :-1]], 1)
    logits = dec(prev, enc(s))
    loss = nn.functional.cross_entropy(logits.reshape(-1, V), t.reshape(-1))
    loss.backward()
    enc_opt.step()
    dec_opt.step()
    return loss.item()


for it in range(360):
    pick = torch.randint(0, N, (48,))
    value = train_step(src[pick], tgt[pick])
    if it % 60 == 0:
        print(it, value)
with torch.no_grad():
    prev = torch.cat([torch.zeros(N, 1, dtype=torch.long), tgt[:, :-1]], 1)
    acc = (dec(prev, enc(src)).argmax(-1) == tgt).float().mean().item()
print("metric: token_accuracy", acc)
