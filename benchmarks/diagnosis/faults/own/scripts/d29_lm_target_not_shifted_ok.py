import torch
import torch.nn as nn

torch.manual_seed(29)
V = 18
table = torch.randperm(V)
seq = torch.zeros(400, 20, dtype=torch.long)
seq[:, 0] = torch.randint(0, V, (400,))
for t in range(1, 20):
    jump = (torch.rand(400) < 0.1)
    seq[:, t] = torch.where(jump, torch.randint(0, V, (400,)), table[seq[:, t - 1]])


class CausalLM(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.emb = nn.Embedding(V, d)
        self.pos = nn.Embedding(20, d)
        self.block = nn.TransformerEncoderLayer(d, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(d, V)

    def forward(self, x):
        n = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        return self.out(self.block(self.emb(x) + self.pos(torch.arange(n)), src_mask=mask))


model = CausalLM()
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
for it in range(260):
    batch = seq[torch.randint(0, 400, (32,))]
    inputs, labels = batch[:, :-1], batch[:, 1:]
    loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 50 == 0:
        print(it, loss.item())
with torch.no_grad():
    acc = (model(seq[:, :-1]).argmax(-1) == seq[:, 1:]).float().mean().item()
print("metric: next_token_accuracy", acc)
